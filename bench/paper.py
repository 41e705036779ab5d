"""A server whose workers draw on paper: its front and its sockets are real, and no process imports torch.

Run by bench/front.py as `python -m bench.paper serve …`; its workers are this module too.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from unittest import mock

from pipelines.spec import Picture
from server import cli, interpreter
from server.worker import protocol

DRAW_S = "BENCH_DRAW_S"  # the variable that says how long a drawing takes
STEPS = 20
PICTURE_BYTES = 1_200_000
WIDTH = HEIGHT = 1024
_WORKER = "worker"


def draw_on_paper(fd: int, draw_s: float) -> None:
    """A worker process: answers every drawing ``draw_s`` seconds after it came, one after another."""
    link = socket.socket(fileno=fd)
    data = random.Random(1).randbytes(PICTURE_BYTES)
    changed = threading.Condition()
    due: list[tuple[float, int, protocol.ToFront]] = []
    count = itertools.count()

    def say() -> None:
        while True:
            with changed:
                changed.wait_for(lambda: due)
                at, _, message = due[0]
                late = at - time.monotonic()
                if late > 0:
                    changed.wait(late)
                    continue
                heapq.heappop(due)
            link.sendall(protocol.pack(message))

    threading.Thread(target=say, daemon=True).start()
    link.sendall(protocol.pack(protocol.Hello("paper", "Paper", "0")))
    free = 0.0
    while (body := protocol.receive(link)) is not None:
        message = protocol.unpack_to_worker(body)
        if isinstance(message, protocol.Load):
            link.sendall(protocol.pack(protocol.Moved(message.plan.key, "ready", "", 0.0, message.plan.mark)))
        if isinstance(message, protocol.Stop):
            return
        if not isinstance(message, protocol.Draw):
            continue
        drawing = message.drawing
        began = max(free, time.monotonic())
        free = began + draw_s
        pictures = tuple(
            Picture(index, data, "image/png", WIDTH, HEIGHT, seed) for index, seed in enumerate(drawing.seeds)
        )
        with changed:
            said = _told(drawing.job_id, pictures, draw_s)
            for share, each in said:
                heapq.heappush(due, (began + share * draw_s, next(count), each))
            changed.notify()


def _told(job_id: str, pictures: tuple[Picture, ...], draw_s: float) -> Iterator[tuple[float, protocol.ToFront]]:
    yield 0.0, protocol.Started(job_id)
    for step in range(1, STEPS + 1):
        yield step / STEPS * 0.99, protocol.Progress(job_id, step, STEPS, 1)
    yield 1.0, protocol.Finished(job_id, pictures, draw_s)


def serve() -> None:
    """The server, with workers of paper."""
    real = interpreter.python

    def python(module: str) -> list[str]:
        return [*real(__spec__.name), _WORKER] if module == "server.worker.child" else real(module)

    with mock.patch.object(interpreter, "python", python):
        cli.main()


if __name__ == "__main__":
    if sys.argv[1] == _WORKER:
        draw_on_paper(int(sys.argv[sys.argv.index("--fd") + 1]), float(os.environ[DRAW_S]))
    else:
        serve()
