"""A job: the admitted work of one request, and the one function that changes its state.

Knows states and times; knows neither HTTP nor workers.

    queued ──▶ running ──▶ done
       │          ├──────▶ failed
       └──────────┴──────▶ cancelled      (queued may fail too: a deadline, a worker lost)
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.plan import DrawJob
from pipelines.spec import Encoding


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


@dataclass
class Job:
    """One job. Only ``transition`` may change ``state``."""

    draw: DrawJob
    encoding: Encoding
    principal: str  # the name of the key's owner
    deadline_s: float  # monotonic
    created: int = field(default_factory=lambda: int(time.time()))  # unix seconds, for the answer only
    admitted_s: float = field(default_factory=time.monotonic)  # monotonic
    state: State = State.QUEUED
    steps_done: int = 0
    steps_of: int = 0

    @property
    def id(self) -> str:
        return self.draw.job_id

    def transition(self, state: State) -> None:
        """Move to ``state``. A move that the drawing above does not show is a bug, and raises."""
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"job {self.id}: no way from {self.state} to {state}")
        self.state = state
