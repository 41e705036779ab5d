"""The messages between front and worker, and how they cross the socket.

Typed msgspec structs in MessagePack, each behind four bytes of big-endian length; never pickle. Knows shapes;
knows neither asyncio nor torch. A frame that does not decode means the peer is broken: the link is dropped.
"""

from __future__ import annotations

import socket
import struct

import msgspec

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, Picture

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 1 << 30


class Load(msgspec.Struct, frozen=True, tag=True):
    """Have this model on the device. Moved says that it is there, though it was before, or why it cannot be."""

    plan: ModelPlan


class Leave(msgspec.Struct, frozen=True, tag=True):
    """Send this model away once nothing is drawn with it."""

    plan: ModelPlan
    place: str  # offloaded or unloaded


class Serve(msgspec.Struct, frozen=True, tag=True):
    """These are the plans of models.yaml from now on: weights of all others go once nothing is drawn with them."""

    plans: tuple[ModelPlan, ...]


class Draw(msgspec.Struct, frozen=True, tag=True):
    """Make this drawing; its pictures come back encoded as ``encoding`` says."""

    drawing: Drawing
    encoding: Encoding
    within_s: float = 0.0  # from now: who asked waits no longer than this; 0: whoever sends it sees to that


class Cancel(msgspec.Struct, frozen=True, tag=True):
    job_id: str


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Finish what was sent, then exit."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The worker is up; ``problem``, for the operator, says why it is not on one that the machine seems to have."""

    device: str
    device_name: str
    torch_version: str
    problem: str = ""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The device that is set cannot be used, and the worker ends; ``reason`` is for the operator."""

    reason: str


class Moved(msgspec.Struct, frozen=True, tag=True):
    """A model's weights have come or gone; ``reason``, for the operator, says why it is broken."""

    key: str
    place: str  # a value of pipelines.models.residency.Place
    reason: str
    seconds: float  # that the load took; 0 where it is only said again that it is there
    mark: str = ""  # of the plan: models.yaml may have another with this key by now; empty: it has not
    size: int = 0  # bytes of the device that it takes, where it is ready
    room: int = 0  # bytes of the device for the weights of all models beside it, where it is ready


class LoadProgress(msgspec.Struct, frozen=True, tag=True):
    """A load has begun, or goes on: a component is there, a forward of its check is done, or more was read from disk.
    One a second at most."""

    key: str
    components: int  # so far
    forwards: int  # so far, decodes included
    mark: str = ""  # of the plan, as in Moved


class Checked(msgspec.Struct, frozen=True, tag=True):
    """What the check at load found: do this model's runs share steps, and if not, why."""

    key: str
    shared: bool
    reason: str
    mark: str = ""  # of the plan, as in Moved


class Cost(msgspec.Struct, frozen=True, tag=True):
    """What a step of this model takes here: ``fixed_s + row_s × rows``, with rows of ``pixels``. Sent when the model
    has been checked, and whenever the cost has moved by a tenth; a ``guess`` as long as too few steps were seen."""

    key: str
    fixed_s: float
    row_s: float
    pixels: int  # of a row
    most_rows: int  # of one step, with so many pixels
    mark: str = ""  # of the plan, as in Moved
    steps: int = 0  # that it was learnt from, since the load
    guess: bool = False


class Graphs(msgspec.Struct, frozen=True, tag=True):
    """What became of the CUDA graphs of a model's steps since it was loaded. Sent when it has been checked, and as runs
    end, if it has changed."""

    key: str
    held: int  # graphs, now
    captured: int
    replayed: int  # steps
    dropped: dict[str, int]  # graphs, by why
    refused: dict[str, int]  # kinds of step that are never captured, by why
    pool_bytes: int  # of the device, for the graphs of all its models
    reason: str = ""  # why no step is a graph; empty: some may be
    mark: str = ""  # of the plan, as in Moved


class Tally(msgspec.Struct, frozen=True, tag=True):
    """The engine's counters since the worker started: forwards, rows, and every fallback; and the device's memory,
    empty for one that does not say."""

    counts: dict[str, int]
    memory: dict[str, int] = {}  # in_use and reserved, in bytes; out_of_memory, how often


class Started(msgspec.Struct, frozen=True, tag=True):
    job_id: str


class Progress(msgspec.Struct, frozen=True, tag=True):
    job_id: str
    done: int  # steps
    of: int
    news: int  # steps since the drawing's last Progress
    computed: int = 0  # of these, those that the step cache did not leave out
    device_s: float = 0.0  # for which the device was busy with the drawing since then: its share of each forward


class Previewed(msgspec.Struct, frozen=True, tag=True):
    """One picture of a drawing as it would be if it stopped here. None comes after Finished or Failed."""

    job_id: str
    number: int  # which of the drawing's previews, from 0
    picture: Picture


class Finished(msgspec.Struct, frozen=True, tag=True):
    job_id: str
    pictures: tuple[Picture, ...]
    seconds: float  # of device work, from Started
    text_tokens: int = 0  # of prompt and negative prompt, by the model's own tokenizer
    computed: int = 0  # steps since the drawing's last Progress, as there
    device_s: float = 0.0  # since then, as there


class Failed(msgspec.Struct, frozen=True, tag=True):
    """``kind`` is a class name of pipelines.errors; ``reason`` is for the log."""

    job_id: str
    kind: str
    reason: str
    computed: int = 0  # steps since the drawing's last Progress, as there
    device_s: float = 0.0  # since then, as there


ToWorker = Load | Leave | Serve | Draw | Cancel | Stop
ToFront = (
    Hello
    | Refused
    | Moved
    | LoadProgress
    | Checked
    | Cost
    | Graphs
    | Tally
    | Started
    | Progress
    | Previewed
    | Finished
    | Failed
)


def pack(message: ToWorker | ToFront) -> bytes:
    """One message as a frame."""
    body = msgspec.msgpack.encode(message)
    return HEADER.pack(len(body)) + body


def unpack_to_worker(body: bytes) -> ToWorker:
    message: ToWorker = msgspec.msgpack.decode(body, type=ToWorker)
    return message


def unpack_to_front(body: bytes) -> ToFront:
    message: ToFront = msgspec.msgpack.decode(body, type=ToFront)
    return message


def receive(link: socket.socket) -> bytes | None:
    """The next frame's body from a blocking socket; None when the peer has closed it."""
    header = _read(link, HEADER.size)
    if header is None:
        return None
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ConnectionError("oversized frame")
    return _read(link, length)


def _read(link: socket.socket, length: int) -> bytes | None:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        count = link.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return bytes(buffer)
