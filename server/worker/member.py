"""A member of the fleet: what draws on one device, and what the fleet has to know of it.

Knows drawings, costs and models; knows neither processes nor sockets. A worker on this machine is one kind of member;
one on another machine may be another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Protocol

from pipelines.facts.families import FamilyTable
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, Picture
from server.settings import Settings
from server.telemetry import Metrics
from server.worker import protocol
from server.worker.devices import WorkerDevice
from server.worker.launch import EarlyChild
from server.worker.rest import Rest
from server.worker.status import Deaths, ModelState, ModelStatus


@dataclass(frozen=True)
class Assignment:
    """What a member begins with."""

    settings: Settings
    plans: tuple[ModelPlan, ...]
    preload: tuple[ModelPlan, ...]  # loaded as soon as it is up
    metrics: Metrics
    device: WorkerDevice = field(default_factory=WorkerDevice)
    deaths: Deaths = field(default_factory=Deaths)  # counted over all members
    early: EarlyChild | None = None  # its first process, where that has begun before the server


Progress = Callable[[int, int], None]  # steps done, of so many
Previewed = Callable[[int, Picture], None]
Spent = Callable[[str, int, float], None]
"""Told what a drawing has taken since this was last told of it: the job's key, steps that were computed, seconds of
the device. Also of drawings that were cancelled, up to their last step."""


def spends_nothing(job: str, steps: int, device_s: float) -> None:
    """Where nobody wants to know."""


@dataclass
class Flight:
    """A drawing that a member has, as the rule sees it."""

    key: str  # of its plan
    rows: int
    pixels: int  # of a row
    steps_left: int

    @staticmethod
    def of(drawing: Drawing) -> Flight:
        """A drawing that is about to begin. Guided steps have two rows a picture."""
        spec = drawing.spec
        family = FamilyTable().by_name.get(drawing.plan.family)
        above = family.negative_above if family is not None else 1.0
        guided = spec.guidance > above and not math.isinf(above)
        rows = len(drawing.seeds) * (2 if guided else 1)
        return Flight(drawing.plan.key, rows, spec.draw_width * spec.draw_height, spec.steps)


class Member(Protocol):
    """One device and what draws on it. All methods run on the event loop's thread."""

    device: str  # as what draws there calls it; empty until it has come up once
    device_name: str  # as its maker calls it
    device_problem: str
    start_failure: str
    rest: Rest
    on_refused: Callable[[str], None]
    on_change: Callable[[], None]  # it has come up, gone, fallen asleep, or cannot start
    on_spent: Spent

    @property
    def name(self) -> str:
        """The device, as metrics, logs and admins call it."""
        ...

    @property
    def up(self) -> bool: ...
    @property
    def asleep(self) -> bool: ...
    @property
    def busy(self) -> bool: ...
    @property
    def settled(self) -> bool: ...
    @property
    def models(self) -> MutableMapping[str, ModelStatus]: ...

    def start(self) -> None: ...
    async def stop(self) -> None: ...
    def serve(self, plans: tuple[ModelPlan, ...], preload: tuple[ModelPlan, ...]) -> None: ...
    def require(self, key: str, model: str, *, retry: bool = True) -> None: ...
    def in_use(self, plan: ModelPlan) -> bool: ...
    async def load(self, plan: ModelPlan, model: str) -> None: ...
    def leave(self, plan: ModelPlan, place: ModelState) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Progress,
        previewed: Previewed,
        deadline_s: float = math.inf,
    ) -> protocol.Finished:
        """The pictures of a drawing. Raises WorkerLost where the member dies under it; cancelling it stops the
        drawing. Whoever asks for it cancels it at ``deadline_s`` (monotonic), and what cannot be told so ends then."""
        ...


def leaves(member: Member, plan: ModelPlan) -> bool:
    """Is a model that was told to leave on its way, and nothing drawn with it before?"""
    status = member.models.get(plan.key) if member.up else None
    on_its_way = status is not None and status.state in (ModelState.READY, ModelState.OFFLOADED)
    return on_its_way and not member.in_use(plan)
