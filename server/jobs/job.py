"""A job: the admitted work of one request, and the one function that changes its state.

Knows states, times and the feeds of its readers; knows neither HTTP nor workers.

    queued ──▶ running ──▶ done
       │          ├──────▶ failed
       └──────────┴──────▶ cancelled      (queued may fail too: a deadline, a worker lost)
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.plan import Drawing
from pipelines.spec import Picture
from server.errors import DarkroomError
from server.jobs.accounts import Charge
from server.jobs.budget import Hold
from server.jobs.feed import Feed


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_NEXT: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.DONE, State.FAILED, State.CANCELLED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


def new_job_id() -> str:
    return "job_" + secrets.token_hex(12)


@dataclass(eq=False)
class Job:
    """One job. Only ``transition`` may change ``state``."""

    principal: str  # the id of whose key it is
    model: str  # the canonical ID in models.yaml
    deadline_s: float  # monotonic
    version: object = None  # of the model: what models.yaml said of it
    id: str = ""  # as its client knows it; chosen by that, it is unique to its principal only. Default: the key
    key: str = field(default_factory=new_job_id)  # unique in this server, for the worker and the log
    n: int = 1  # pictures
    kept_as: str = ""  # the key of its row in the database; empty: it has none
    created: int = field(default_factory=lambda: int(time.time()))  # unix seconds, for the answer only
    admitted_s: float = field(default_factory=time.monotonic)  # monotonic
    started_s: float = 0.0  # monotonic, of its turn
    ended_s: float = 0.0  # monotonic
    state: State = State.QUEUED
    steps_done: int = 0
    steps_of: int = 0
    pass_number: int = 0  # how many drawings came before the one whose steps these are
    error: DarkroomError | None = None  # what it failed with
    drawing: Drawing | None = None  # once nothing is left to refuse, until it has ended
    size: str = ""  # WIDTHxHEIGHT, once it is decided
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # nothing is left to refuse
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cancel: Callable[[], object] = lambda: None  # what DELETE does
    ahead: Callable[[], int] = lambda: 0  # how many wait for a permit before it
    feeds: list[Feed] = field(default_factory=list)
    charge: Charge | None = None  # what it pays
    hold: Hold | None = None  # of the budget of bytes: its sources and pictures, while it goes on

    def __post_init__(self) -> None:
        self.id = self.id or self.key

    def transition(self, state: State) -> None:
        """Move to ``state``. A move that the drawing above does not show is a bug, and raises."""
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"job {self.id}: no way from {self.state} to {state}")
        self.state = state
        if state is State.RUNNING:
            self.started_s = time.monotonic()
        elif not _NEXT[state]:
            self.ended_s = time.monotonic()
            # Sources and pictures are megabytes, and the job is remembered for a while.
            self.drawing = None
            self.cancel = lambda: None  # it led to the pictures
            self.ended.set()
        self._notify()

    @property
    def payer(self) -> str:
        """The name of whose key it is, for people."""
        return self.principal if self.charge is None else self.charge.payer.name

    def prepared(self, drawing: Drawing) -> None:
        """Everything is decided: from here on only the drawing and its delivery can fail."""
        self.drawing = drawing
        self.size = f"{drawing.spec.width}x{drawing.spec.height}"
        self.steps_of = drawing.spec.steps
        self.ready.set()

    def take(self, size: int, *, owed: bool = False) -> None:
        """Hold ``size`` bytes more until the job has ended. Raises Busy, unless they are owed."""
        if self.hold is not None:
            self.hold.take(size, owed=owed)

    @contextlib.contextmanager
    def feeding(self, feed: Feed) -> Iterator[None]:
        """Tell ``feed`` what happens meanwhile."""
        self.feeds.append(feed)
        try:
            yield
        finally:
            self.feeds.remove(feed)

    def next_pass(self, steps: int) -> None:
        """The pictures are drawn once more, in about so many steps, which count from 0 again."""
        self.pass_number += 1
        self.stepped(0, steps)

    def stepped(self, done: int, of: int) -> None:
        self.steps_done, self.steps_of = done, of
        self._notify()

    def previewed(self, number: int, picture: Picture) -> None:
        for feed in self.feeds:
            feed.preview(number, picture)

    def _notify(self) -> None:
        for feed in self.feeds:
            feed.notice()
