"""The messages between the front and a replica, in MessagePack.

Most are those between front and worker process, passed on; these are the others. Ray carries them as bytes: what it
does with pickle beneath is between machines that hold the same token. Knows shapes; knows neither Ray nor asyncio.
"""

from __future__ import annotations

import msgspec

from pipelines.plan import ModelPlan
from server import errors
from server.errors import DarkroomError, Unavailable, WorkerLost
from server.worker import failures, protocol


class Watch(msgspec.Struct, frozen=True, tag=True):
    """Tell what happens to the models there, from how it stands now on; draw by these plans."""

    plans: tuple[ModelPlan, ...]


class Sleep(msgspec.Struct, frozen=True, tag=True):
    """End the worker process as soon as it is free."""


class Wake(msgspec.Struct, frozen=True, tag=True):
    """Start the worker process, if it sleeps."""


class Jobs(msgspec.Struct, frozen=True, tag=True):
    """How many jobs the front has, waiting ones included: so many replicas there are to be."""

    count: int


class Here(msgspec.Struct, frozen=True, tag=True):
    """What a replica answers when it is asked who it is."""

    machine: str
    device: str  # the kind, and the number on that machine where it has one: cpu, cuda:2
    version: str  # of Darkroom


class Standing(msgspec.Struct, frozen=True, tag=True):
    """How the worker process of the replica stands."""

    up: bool
    asleep: bool
    start_failure: str = ""


class Alive(msgspec.Struct, frozen=True, tag=True):
    """A sign of life where nothing else is to be said."""


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """The drawing has reached the replica: said at once."""

    job_id: str


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """The end of a drawing with an error of the replica's: ``kind`` is a class name of server.errors."""

    job_id: str
    kind: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    begun: bool = True  # as in WorkerLost
    started: bool = True  # as in Unavailable

    @staticmethod
    def of(job_id: str, error: DarkroomError) -> Refusal:
        """An error, as it crosses."""
        return Refusal(
            job_id,
            type(error).__name__,
            error.message,
            error.param,
            error.retry_after_s,
            getattr(error, "begun", True),
            getattr(error, "started", True),
        )

    def error(self) -> DarkroomError:
        """The error here: of a kind that this server knows, or a fault."""
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, DarkroomError)):
            return failures.failed(self.kind, self.message, self.job_id, "")
        error = kind(self.message, param=self.param, retry_after_s=self.retry_after_s)
        if isinstance(error, Unavailable):
            error.started = self.started
        if isinstance(error, WorkerLost):
            error.begun = self.begun
        return error


Told = Sleep | Wake | Jobs | protocol.Load | protocol.Leave | protocol.Serve
"""What a front tells a replica without waiting for an answer."""

OfWatch = (
    Standing
    | Alive
    | protocol.Hello
    | protocol.Refused
    | protocol.Moved
    | protocol.LoadProgress
    | protocol.Checked
    | protocol.Cost
    | protocol.Graphs
    | protocol.Tally
)
"""What comes while a front watches a replica."""

OfDrawing = (
    Accepted
    | Alive
    | Refusal
    | protocol.Started
    | protocol.Progress
    | protocol.Previewed
    | protocol.Finished
    | protocol.Failed
)
"""What comes of one drawing. Finished, Failed or Refusal is the last."""

encode = msgspec.msgpack.encode


def read_here(body: bytes) -> Here:
    return msgspec.msgpack.decode(body, type=Here)


def read_watch(body: bytes) -> Watch:
    return msgspec.msgpack.decode(body, type=Watch)


def read_draw(body: bytes) -> protocol.Draw:
    return msgspec.msgpack.decode(body, type=protocol.Draw)


def read_told(body: bytes) -> Told:
    message: Told = msgspec.msgpack.decode(body, type=Told)
    return message


def read_of_watch(body: bytes) -> OfWatch:
    message: OfWatch = msgspec.msgpack.decode(body, type=OfWatch)
    return message


def read_of_drawing(body: bytes) -> OfDrawing:
    message: OfDrawing = msgspec.msgpack.decode(body, type=OfDrawing)
    return message
