"""The fleet: all that draws for this server, a member for each device, behind the face of a single worker.

Knows members, the rule that gives each drawing to one of them, and which models are bound to which; knows neither
processes nor sockets nor HTTP. All methods run on the event loop's thread. All pictures of a drawing stay on one
device, and the end of one member costs its own drawings alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Protocol, TypeVar

from pipelines.plan import Drawing, ModelPlan
from server.errors import DarkroomError, ModelUnavailable
from server.settings import Settings
from server.telemetry import Metrics
from server.worker import rule
from server.worker.books import Books
from server.worker.devices import WorkerDevice, threads_of
from server.worker.launch import Early
from server.worker.member import Assignment, Flight, Member, Spent, leaves, spends_nothing
from server.worker.overview import Overview
from server.worker.place import Place
from server.worker.status import Deaths, ModelState, ModelStatus

log = logging.getLogger("darkroom.worker")

_LEAVE_S = 10.0  # whoever unloads a model is answered then, whether or not it has left
_LOOK_S = 0.05  # between two looks at a model that leaves

M = TypeVar("M", bound=Member)

Binding = tuple[str, ...]  # names of devices that a model may be drawn on; empty: any


class Roster(Protocol):
    """Where members come from that are not on this machine: they join the fleet, and leave it, while it runs."""

    def connect(self) -> None: ...
    def start(self, fleet: Fleet) -> None: ...
    async def stop(self) -> None: ...
    async def close(self) -> None: ...


class Fleet:
    """The members of one server."""

    def __init__(
        self,
        settings: Settings,
        devices: Iterable[WorkerDevice],
        plans: Iterable[ModelPlan],
        preload: Iterable[ModelPlan],
        metrics: Metrics,
        build: Callable[[Assignment], Member],
        roster: Roster | None = None,
        early: Early | None = None,
    ) -> None:
        """With a ``roster``, ``devices`` may be none at the start."""
        self._roster = roster
        self._early = early
        self._settings = settings
        self._metrics = metrics
        self._deaths = Deaths()
        self._plans = {plan.key: plan for plan in plans}
        self._preload = tuple(preload)
        self._changed = asyncio.Event()
        self._started = False
        self._build = build
        self._books = [self._open(device) for device in devices]
        self.left_out: dict[str, str] = {}  # devices that turned out to be of no use, and why
        self.on_refused: Callable[[str], None] = lambda reason: None  # the devices that are set cannot be used here
        self.jobs: Callable[[], int] = lambda: 0  # how many this server has, waiting ones included
        self.on_slots: Callable[[], None] = lambda: None  # there may be more slots than before
        self.on_spent: Spent = spends_nothing

    def _assignment(self, device: WorkerDevice) -> Assignment:
        plans, preload = tuple(self._plans.values()), self._bound_to(device, self._preload)
        early = None if self._early is None else self._early.take(device)
        return Assignment(self._settings, plans, preload, self._metrics, device, self._deaths, early)

    def _open(self, device: WorkerDevice, member: Member | None = None) -> Books:
        member = member or self._build(self._assignment(device))
        books = Books(member, device, lambda key: self._bound(self._plans.get(key)))
        member.on_change = self._note_change
        member.on_spent = lambda job, steps, device_s: self.on_spent(job, steps, device_s)
        member.on_refused = lambda reason: self._refused(books, reason)
        return books

    # What a single worker tells, too.

    @property
    def members(self) -> tuple[Member, ...]:
        """In the order of the setting, without those that were left out."""
        return tuple(books.member for books in self._books)

    @property
    def devices(self) -> tuple[WorkerDevice, ...]:
        """Those that the members draw on."""
        return tuple(books.device for books in self._books)

    @property
    def up(self) -> bool:
        """Is any member up?"""
        return any(member.up for member in self.members)

    @property
    def asleep(self) -> bool:
        """Do all sleep, of those that can be used?"""
        usable = [member for member in self.members if not member.start_failure]
        return bool(usable) and all(member.asleep for member in usable)

    @property
    def settled(self) -> bool:
        """Is one member settled, and every other, too, but those that cannot be used, are being replaced, or came to a
        fleet that was settled?"""
        settled = [books.member.settled or books.is_excused for books in self._books]
        return all(settled) and any(member.settled for member in self.members)

    @property
    def device(self) -> str:
        if len(self._books) == 1:
            return self._books[0].member.device
        return ", ".join(member.name for member in self.members)

    @property
    def device_problem(self) -> str:
        """Why a member is not on the device that this machine seems to have, or a device is not used."""
        said = [self._said(member, member.device_problem) for member in self.members if member.device_problem]
        return " ".join([*said, *(f"{name} is left out: {reason}" for name, reason in self.left_out.items())])

    @property
    def start_failure(self) -> str:
        """Why no member comes up; empty as long as one may."""
        if not all(member.start_failure for member in self.members):
            return ""
        return " ".join(self._said(member, member.start_failure) for member in self.members)

    def _said(self, member: Member, text: str) -> str:
        return text if len(self._books) == 1 else f"{member.name}: {text}"

    @property
    def models(self) -> MutableMapping[str, ModelStatus]:
        """Where each model is: as it stands best on any device that it may be on."""
        if len(self._books) == 1:
            return self._books[0].member.models
        return Overview(self._statuses, lambda: [member.models for member in self.members])

    def _statuses(self, key: str) -> Iterator[ModelStatus]:
        bound = self._bound(self._plans.get(key))
        return (books.member.models[key] for books in bound if key in books.member.models)

    # Life.

    def connect(self) -> None:
        """Reach the machines that members come from, before anything is served. Raises ConfigError."""
        if self._roster is not None:
            self._roster.connect()

    def start(self) -> None:
        self._started = True
        for member in self.members:
            member.start()
        if self._roster is not None:
            self._roster.start(self)

    async def stop(self) -> None:
        self._started = False
        if self._roster is not None:
            await self._roster.stop()
        await asyncio.gather(*(member.stop() for member in self.members))
        if self._roster is not None:
            await self._roster.close()

    def serve(self, plans: Iterable[ModelPlan], preload: Iterable[ModelPlan]) -> None:
        """Draw by these plans from now on; drawings that have begun end on their own."""
        self._plans, self._preload = {plan.key: plan for plan in plans}, tuple(preload)
        for books in self._books:
            books.member.serve(tuple(self._plans.values()), self._bound_to(books.device, self._preload))

    def join(self, device: WorkerDevice, build: Callable[[Assignment], M]) -> M:
        """A device has come: drawings may be given to it as soon as its member, which is started here, is up."""
        is_late, member = self.settled, build(self._assignment(device))
        books = self._open(device, member)
        books.is_late = is_late
        self._books.append(books)
        member.start()
        self._note_change()
        return member

    def part(self, member: Member) -> None:
        """A device is going: it is given no more drawings. Those that it has end as they may."""
        self._books = [books for books in self._books if books.member is not member]
        self._metrics.forget_drawings(member.name)
        self._note_change()

    def _refused(self, books: Books, reason: str) -> None:
        """A device cannot be used: it is left out where nobody named it and there are others, else the server stops."""
        name = books.member.name
        if not books.device.optional:
            self.on_refused(reason if len(self._books) == 1 else f"{name}: {reason}")
            return
        self.left_out[name] = reason
        log.warning("device left out", extra={"device": name, "reason": reason})
        self._books.remove(books)
        if not self._books:
            said = " ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            if self._settings.device_words != ("auto",):
                self._books.append(books)
                self.on_refused(said)
                return
            self._books.append(self._open(WorkerDevice("cpu", "cpu", threads=threads_of(self._settings))))
            if self._started:
                self._books[0].member.start()
        self._note_change()

    def _note_change(self) -> None:
        for books in self._books:
            books.look()
        self._changed.set()
        self._changed = asyncio.Event()
        self.on_slots()

    # Which member?

    def names(self) -> tuple[str, ...]:
        """The devices, as models.yaml and admins may name them."""
        return (*(member.name for member in self.members), *self.left_out)

    def find(self, name: str | None) -> tuple[Member, ...]:
        """The members on the device of this name, or on those of this kind; all without one. Empty: there is none."""
        if name is None:
            return self.members
        return tuple(books.member for books in self._books if books.is_one_of((name,)))

    def may_draw(self, member: Member, plan: ModelPlan) -> bool:
        """May this model be on the device of this member?"""
        return any(books.member is member for books in self._bound(plan))

    def lane(self, plan: ModelPlan) -> Binding:
        """The devices that a model is bound to; empty for all."""
        return plan.devices if len(self._books) > 1 else ()

    def slots(self, lane: Binding = ()) -> int:
        """How many drawings go on at a time on these devices: as many as running_jobs on each that is up.

        None where all of a lane are down, or its drawings would have the turns of devices that have nothing to do.
        """
        there = [books for books in self._books if books.is_one_of(lane)]
        up = sum(books.available for books in there)
        waits = lane and any(not books.member.start_failure for books in there)  # else they are answered at once
        return self._settings.running_jobs * (up if waits else max(1, up))

    def _bound(self, plan: ModelPlan | None) -> list[Books]:
        return [books for books in self._books if plan is None or books.is_one_of(plan.devices)]

    def _bound_to(self, device: WorkerDevice, plans: Iterable[ModelPlan]) -> tuple[ModelPlan, ...]:
        return tuple(plan for plan in plans if not plan.devices or any(map(device.answers_to, plan.devices)))

    def require(self, key: str, model: str, *, retry: bool = True) -> None:
        """Raise ModelUnavailable for weights that no device could load; ``model`` is the ID asked for. Raise
        Unavailable where no worker comes up."""
        plan = self._plans.get(key)
        if plan is not None:
            self._able(plan, model, retry=retry)

    def _able(self, plan: ModelPlan, model: str, *, retry: bool = True) -> list[Books]:
        """The members that may be given drawings of this model. Raises what forbids it where there is none."""
        able, refusals = list[Books](), list[DarkroomError]()
        for books in self._bound(plan):
            try:
                books.member.require(plan.key, model, retry=retry)
                able.append(books)
            except DarkroomError as refusal:
                refusals.append(refusal)
        if able or not self._books:  # a cluster of which nothing is up yet: what comes may draw it
            return able
        if not refusals:
            raise ModelUnavailable(
                f"{model} is bound to {', '.join(plan.devices)}, which this server does not draw on now; /readyz says"
                " why.",
                param="model",
            )
        raise next((refusal for refusal in refusals if isinstance(refusal, ModelUnavailable)), refusals[0])

    def states(self, plan: ModelPlan) -> dict[str, str]:
        """Where this model is, on each device that it may be on."""
        return {
            books.member.name: str(books.member.models[plan.key].state)
            for books in self._bound(plan)
            if plan.key in books.member.models
        }

    def drawings(self, member: Member) -> Counter[str]:
        """How many drawings this member has of each model, by the keys of their plans."""
        return Counter(flight.key for books in self._books if books.member is member for flight in books.flights)

    # Drawing.

    def reserve(self, drawing: Drawing, *, alone: bool = False, deadline_s: float = math.inf) -> Place:
        """A place for a drawing, to be held: beside others, or ``alone`` on its device. ``deadline_s`` (monotonic) is
        when whoever asks gives it up."""
        return Place(self, drawing, alone=alone, deadline_s=deadline_s)

    async def choose(self, drawing: Drawing, flight: Flight) -> Books:
        """The member that is to draw this now. Raises ModelUnavailable and Unavailable."""
        while True:
            able = self._able_now(drawing)
            ready = [books for books in able if books.available]
            if not ready and len(able) != 1:
                await self._changed.wait()
                continue
            candidates = ready or able
            open_ = [books for books in candidates if not books.company.shut] or candidates
            roomy = [books for books in open_ if len(books.flights) < self._settings.running_jobs] or open_
            return roomy[0] if len(roomy) == 1 else rule.choose(flight, roomy)

    def has_other(self, books: Books, drawing: Drawing) -> bool:
        """Would ``choose`` have another one now?"""
        try:
            return any(other.available for other in self._able_now(drawing) if other is not books)
        except DarkroomError:
            return False

    def _able_now(self, drawing: Drawing) -> list[Books]:
        plan = drawing.plan
        if self._plans.get(plan.key) != plan:  # models.yaml was read again since it was admitted
            return self._bound(plan) or self._books
        return self._able(plan, drawing.spec.model)

    @contextlib.contextmanager
    def held(self, books: Books, flight: Flight) -> Iterator[None]:
        """The member has this drawing until the block ends."""
        books.begin(flight)
        self._count(books)
        try:
            yield
        finally:
            books.end(flight)
            self._count(books)

    def _count(self, books: Books) -> None:
        name = books.member.name
        if books.counted_as not in ("", name):  # a device is named when it has come up
            self._metrics.forget_drawings(books.counted_as)
        books.counted_as = name
        self._metrics.device_drawings.labels(name).set(len(books.flights))

    # What an admin may ask for.

    async def load(self, plan: ModelPlan, model: str, device: str | None = None) -> None:
        """Return when the weights are on this device, or on all that the model may be on. Raises what forbids it where
        it is on none of them."""
        members = [member for member in self.find(device) if self.may_draw(member, plan)]
        results = await asyncio.gather(*(self._load(member, plan, model) for member in members), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures and (len(failures) == len(results) or not isinstance(failures[0], DarkroomError)):
            raise failures[0]

    async def _load(self, member: Member, plan: ModelPlan, model: str) -> None:
        member.require(plan.key, model)
        await member.load(plan, model)

    def leave(self, plan: ModelPlan, place: ModelState, device: str | None = None) -> None:
        """Have a model leave this device, or all, for host memory or the disk, once nothing is drawn with it."""
        for member in self.find(device):
            member.leave(plan, place)

    async def unload(self, plan: ModelPlan, device: str | None = None) -> None:
        """The same for the disk. Return when it has left; where something is drawn with it, or it is loaded, at once.
        A device that has other things to do, as another's load, is not waited for longer than ``_LEAVE_S``."""
        self.leave(plan, ModelState.UNLOADED, device)
        until_s = time.monotonic() + _LEAVE_S
        # What says that a model has left is the worker's message, which wakes nobody.
        while any(leaves(member, plan) for member in self.find(device)) and time.monotonic() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    def sleep(self, device: str | None = None) -> None:
        """End the process of this device, or of all, as soon as nothing is drawn or loaded there."""
        for member in self.find(device):
            member.sleep()

    def wake(self, device: str | None = None) -> None:
        """Start the process of this device, or of all, if it sleeps, and load what is to be preloaded."""
        for member in self.find(device):
            member.wake()
