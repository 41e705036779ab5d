"""A worker process that is none, and a front's end of it to try."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import ImageSpec
from server.settings import Settings
from server.telemetry import Metrics
from server.worker import protocol
from server.worker.local import LocalWorker
from server.worker.member import Assignment

MINI, BROKEN = ModelPlan("mini", "/mini", "other"), ModelPlan("broken", "/broken", "other")
DRAWING = Drawing("job_1", MINI, ImageSpec("mini", "p", 48, 32, 24, 16, 4, 1.0), (5,))
HELLO = protocol.Hello("cpu", "CPU", "2")


class Child:
    """Stands in for the worker process, at the other end of the real socket: says what it is told to."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.heard: list[protocol.ToWorker] = []
        self.returncode: int | None = None
        self.obeys = True
        self._socket = socket.socket(fileno=os.dup(fd))
        self._ended = asyncio.Event()

    async def listen(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._listening = asyncio.create_task(self._listen(reader))

    def say(self, message: protocol.ToFront) -> None:
        self._writer.write(protocol.pack(message))

    def listen_no_more(self) -> None:
        self._listening.cancel()
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def has_unread(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        return False

    def end(self, code: int) -> None:
        self.returncode = code
        self._writer.close()
        self._ended.set()

    async def wait(self) -> int | None:
        await self._ended.wait()
        return self.returncode

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # it has ended
            while protocol.Stop() not in self.heard:
                (length,) = protocol.HEADER.unpack(await reader.readexactly(protocol.HEADER.size))
                self.heard.append(protocol.unpack_to_worker(await reader.readexactly(length)))
            if self.obeys:
                self.end(0)


Children = asyncio.Queue[Child]


@contextlib.asynccontextmanager
async def started(preload: Iterable[ModelPlan]) -> AsyncIterator[LocalWorker]:
    worker = LocalWorker(Assignment(Settings(), (MINI, BROKEN), tuple(preload), Metrics()))
    worker.start()
    async with asyncio.timeout(10):
        yield worker
        await worker.stop()


async def until(fact: Callable[[], bool]) -> None:
    while not fact():  # noqa: ASYNC110, no event tells of it
        await asyncio.sleep(0.001)


async def move(worker: LocalWorker, child: Child, key: str, place: str, reason: str = "") -> None:
    """Return when the worker knows that these weights have come or gone."""
    before = worker.models[key]
    child.say(protocol.Moved(key, place, reason, 0.1))
    await until(lambda: worker.models[key] is not before)
