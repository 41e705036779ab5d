"""The rule by which the fleet gives a drawing to a device: where it would itself end first, loading included.

Knows flights, costs and loads; knows neither members nor time. The figures behind it are in docs/devices.md. What
comes after is not foreseen, and the order of steps is taken to be fair: while ours takes its steps, every other drawing
there takes as many of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from server.worker.cost import Cost
from server.worker.member import Flight

EVICTION = 1.5  # a load that sends another model away costs so many times as much: somebody will want that one back


class Outlook(Protocol):
    """What is known of one device."""

    @property
    def flights(self) -> Sequence[Flight]: ...

    def cost(self, key: str) -> Cost:
        """What a step of this model takes here."""
        ...

    def load_s(self, key: str) -> float:
        """How long this model would take to come here, or will still take; 0 where it is."""
        ...

    @property
    def awaited(self) -> Sequence[str]:
        """The models that are loaded here now, or are waited for, in order: one load at a time."""
        ...

    def crowds(self, key: str) -> bool:
        """Must another model leave, if this one comes?"""
        ...


O = TypeVar("O", bound=Outlook)  # noqa: E741


def choose(flight: Flight, devices: Iterable[O]) -> O:
    """The device for a drawing, of at least one; of equals one where its model is or is awaited, then the one with the
    fewest drawings."""

    def rank(device: O) -> tuple[float, bool, int]:
        elsewhere = device.load_s(flight.key) > 0 and flight.key not in device.awaited
        return round(ends_s(flight, device), 6), elsewhere, len(device.flights)

    return min(devices, key=rank)


def ends_s(flight: Flight, device: Outlook) -> float:
    """Seconds until a drawing that begins now would be done there."""
    return finish_s(flight, device) + loads_s(flight.key, device)


def finish_s(flight: Flight, device: Outlook) -> float:
    """Seconds of drawing until it is done, beside what the device has."""
    steps, cost = flight.steps_left, device.cost(flight.key)
    longest: dict[str, int] = {}
    rows, seconds = flight.rows, 0.0
    for other in device.flights:
        shared = min(other.steps_left, steps)
        seconds += shared * other.rows * device.cost(other.key).row(other.pixels)
        if other.key == flight.key:
            rows += other.rows
        else:
            longest[other.key] = max(longest.get(other.key, 0), shared)
    for key, shared in longest.items():
        seconds += shared * device.cost(key).fixed_s  # other models' steps go between ours
    batches = math.ceil(rows / cost.knee(flight.pixels))
    return seconds + steps * (batches * cost.fixed_s + flight.rows * cost.row(flight.pixels))


def loads_s(key: str, device: Outlook) -> float:
    """Seconds until the model is there: behind the loads that are awaited already."""
    own_s = device.load_s(key)
    if not own_s:
        return 0.0
    awaited = list(device.awaited)
    if key in awaited:
        return sum(device.load_s(other) for other in awaited[: awaited.index(key) + 1])
    before_s = sum(device.load_s(other) for other in awaited)
    return before_s + own_s * (EVICTION if device.crowds(key) else 1.0)
