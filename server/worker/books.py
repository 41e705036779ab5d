"""The books of the fleet: of each member what the rule has to know, and which drawings it has.

Knows members, flights and the rule's questions; knows nothing of processes. What a member has not told yet is taken
from another, or guessed: a guess costs one drawing a worse place. A worker's own first guess of a cost is no more than
that: two of one kind, whose guesses differ, would be told apart by chance, and the dearer would get nothing to learn
from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from server.worker.company import Company
from server.worker.cost import Cost
from server.worker.devices import WorkerDevice
from server.worker.member import Flight, Member
from server.worker.status import ModelState, ModelStatus, ModelStatuses

_UNKNOWN_LOAD_S = 10.0
_UNKNOWN_COST = Cost(0.02, 0.1, 1024 * 1024, 8)
_SOON_S = 0.5  # until a load ends that has taken longer than the last
_WAKING_S = 10.0  # a process starts, and imports torch

_KNOWN_STEPS = 16  # of its own, for a guessed cost to have found the device's pace


class Books:
    """One member, as the fleet sees it: the rule's outlook on its device."""

    def __init__(self, member: Member, device: WorkerDevice, bound: Callable[[str], Iterable[Books]]) -> None:
        """``bound`` tells all members that may have a model."""
        self.member = member
        self.device = device
        self.company = Company()
        self.was_lost = False  # it has been up, and then was not: the server has been ready without it
        self.is_late = False  # it joined a fleet that was settled without it
        self.counted_as = ""  # the name of the device in metrics, as it was last
        self._was_up = False
        self._flights: list[Flight] = []
        self._bound = bound

    def is_one_of(self, names: Collection[str]) -> bool:
        """Is its device among these, or are none named?"""
        return not names or any(name == self.member.name or self.device.answers_to(name) for name in names)

    @property
    def kind(self) -> str:
        """What its maker calls the device: equal for those that draw as quickly."""
        return self.member.device_name

    @property
    def available(self) -> bool:
        """Can it be given a drawing now? One that sleeps wakes for it."""
        return self.member.up or self._is_waking

    @property
    def _is_waking(self) -> bool:
        return self.member.asleep or self.member.rest.waking

    @property
    def is_excused(self) -> bool:
        """Are the others no less ready without it?"""
        return self.was_lost or self.is_late or bool(self.member.start_failure)

    def look(self) -> None:
        """Note whether it is up."""
        self._was_up |= self.member.up
        self.was_lost |= self._was_up and not self.available

    @property
    def flights(self) -> Sequence[Flight]:
        return self._flights

    def begin(self, flight: Flight) -> None:
        self._flights.append(flight)

    def end(self, flight: Flight) -> None:
        self._flights = [other for other in self._flights if other is not flight]

    def cost(self, key: str) -> Cost:
        own = self._status(key).loads.cost
        if own is not None and (not own.guess or own.steps >= _KNOWN_STEPS):
            return own
        told = [(other.kind, cost) for other in self._bound(key) if (cost := other._status(key).loads.cost) is not None]
        alike = [cost for kind, cost in told if kind == self.kind]
        if alike:
            return max(alike, key=lambda cost: (not cost.guess, cost.steps))
        return told[0][1] if told else _UNKNOWN_COST

    def load_s(self, key: str) -> float:
        status = self._status(key)
        if status.state is ModelState.READY:
            return 0.0
        models = self.member.models
        own_s = models.load_s(key) if isinstance(models, ModelStatuses) and key in models else None
        if not own_s:
            known = (status.loads.disk_s for status in self._elsewhere(key) if status.loads.disk_s)
            own_s = next(known, _UNKNOWN_LOAD_S)
        if status.state is ModelState.LOADING:
            own_s = max(_SOON_S, own_s - (time.monotonic() - status.since_s))
        return own_s + (_WAKING_S if self._is_waking else 0.0)

    @property
    def awaited(self) -> Sequence[str]:
        models = self.member.models
        loading = [key for key, status in models.items() if status.state is ModelState.LOADING]
        waited = [flight.key for flight in self._flights if self._status(flight.key).state is not ModelState.READY]
        return tuple(dict.fromkeys((*loading, *waited)))

    def crowds(self, key: str) -> bool:
        models = self.member.models
        room = models.room if isinstance(models, ModelStatuses) else 0
        if not room:
            return False  # nothing was loaded there yet
        there = [status.loads.size for status in models.values() if status.state is ModelState.READY]
        known = [status.loads.size for status in self._elsewhere(key) if status.loads.size]
        return sum(there) + max(known, default=max(there, default=0)) > room

    def _elsewhere(self, key: str) -> Iterator[ModelStatus]:
        return (books.member.models[key] for books in self._bound(key) if key in books.member.models)

    def _status(self, key: str) -> ModelStatus:
        return self.member.models.get(key) or ModelStatus()
