"""Messages cross the socket whole, typed, and never as pickles."""

from __future__ import annotations

import pickle
import socket
import threading

import msgspec
import pytest

from pipelines.plan import AdapterFile, Drawing, ModelPlan
from pipelines.spec import Adapter, Encoding, ImageSpec, Picture, Pixels
from server.worker import protocol

PLAN = ModelPlan("m", "/models/m", "flux", "bfloat16", adapters=(AdapterFile("pixel", "/loras/pixel.safetensors"),))
SPEC = ImageSpec("m", "un prompt ☕", 8, 8, 16, 16, 4, 2.5, "no", "euler", 0.5,
                 (Pixels(1, 2, "RGB", bytes(range(6))),), Pixels(1, 1, "L", b"\xff"),
                 (Adapter("pixel", -0.5),))  # fmt: skip
DRAWING = Drawing("job_1", PLAN, SPEC, (1, 2**63 - 1))

TO_WORKER: list[protocol.ToWorker] = [
    protocol.Load(PLAN),
    protocol.Leave(PLAN, "unloaded"),
    protocol.Serve((PLAN,)),
    protocol.Draw(DRAWING, Encoding("webp", 3, False)),
    protocol.Cancel("j"),
    protocol.Stop(),
]
TO_FRONT: list[protocol.ToFront] = [
    protocol.Hello("cpu", "CPU", "2", "the driver is too old"),
    protocol.Refused("the driver is too old"),
    protocol.Moved("m", "broken", "why", 1.5),
    protocol.LoadProgress("m", 3, 12, "5f"),
    protocol.Cost("mini", 0.01, 0.02, 4096, 8, "0123", 900, True),
    protocol.Graphs("mini", 2, 3, 40, {"memory was short": 1}, {}, 4096, "", "0123"),
    protocol.Checked("m", False, "differs"),
    protocol.Tally({"unet_forwards": 3}, {"in_use": 1, "reserved": 2, "out_of_memory": 0}),
    protocol.Started("j"),
    protocol.Progress("j", 2, 9, 1),
    protocol.Previewed("j", 1, Picture(0, b"\x89PNG", "image/png", 8, 8, 5)),
    protocol.Finished("j", (Picture(0, b"\x89PNG", "image/png", 8, 8, 5),), 0.25, 7),
    protocol.Failed("j", "BadPicture", "NaN"),
]


def test_every_message_is_tried_here() -> None:
    assert {type(message) for message in TO_WORKER} == set(protocol.ToWorker.__args__)
    assert {type(message) for message in TO_FRONT} == set(protocol.ToFront.__args__)


def test_messages_come_out_as_they_went_in_even_byte_by_byte() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames = b"".join(protocol.pack(message) for message in [*TO_WORKER, *TO_FRONT])

        def drip() -> None:
            for at in range(0, len(frames), 3):
                theirs.sendall(frames[at : at + 3])
            theirs.close()

        thread = threading.Thread(target=drip)
        thread.start()
        bodies = [protocol.receive(ours) for _ in range(len(TO_WORKER) + len(TO_FRONT))]
        assert protocol.receive(ours) is None  # closed
        thread.join()
    whole = [body or b"" for body in bodies]
    assert [protocol.unpack_to_worker(body) for body in whole[: len(TO_WORKER)]] == TO_WORKER
    assert [protocol.unpack_to_front(body) for body in whole[len(TO_WORKER) :]] == TO_FRONT


@pytest.mark.parametrize("body", [b"", pickle.dumps(protocol.Stop), b"\xc1", msgspec.msgpack.encode({"type": "Evil"})])
def test_anything_else_is_refused(body: bytes) -> None:
    for unpack in (protocol.unpack_to_front, protocol.unpack_to_worker):
        with pytest.raises(msgspec.DecodeError):
            unpack(body)


def test_an_oversized_frame_is_refused_before_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(protocol.HEADER.pack(protocol.MAX_FRAME_BYTES + 1))
        with pytest.raises(ConnectionError):
            protocol.receive(ours)


def test_a_peer_that_dies_in_mid_frame_is_a_closed_one() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(protocol.pack(protocol.Stop())[:-1])
        theirs.close()
        assert protocol.receive(ours) is None
