"""The worker process that does not come up, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, ImageSpec
from server import interpreter
from server.errors import Unavailable, WorkerLost
from server.settings import Settings
from server.telemetry import Metrics
from server.worker.local import LocalWorker
from server.worker.member import Assignment

DRAWING = Drawing("job_1", ModelPlan("mini", "/mini", "other"), ImageSpec("mini", "p", 8, 8, 8, 8, 1, 1.0), (5,))

UP = """if True:
    import socket, sys, time
    from server.worker import protocol
    link = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    link.sendall(protocol.pack(protocol.Hello("cpu", "CPU", "2")))
    time.sleep(1)
"""


@contextlib.asynccontextmanager
async def started(monkeypatch: pytest.MonkeyPatch, *children: str) -> AsyncIterator[LocalWorker]:
    """A worker whose processes run these programs, one after the other, and the last for ever."""
    left = list(children)

    def command(module: str) -> list[str]:
        return [sys.executable, "-c", left.pop(0) if len(left) > 1 else left[0]]

    monkeypatch.setattr(interpreter, "python", command)
    monkeypatch.setattr("server.worker.local._FIRST_BACKOFF_S", 0.01)
    worker = LocalWorker(Assignment(Settings(), (DRAWING.plan,), (), Metrics()))
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


def draw(worker: LocalWorker) -> Any:
    return asyncio.wait_for(worker.draw(DRAWING, Encoding(), lambda done, of: None), 30)


@pytest.mark.anyio
async def test_a_worker_that_ends_at_once_is_told_of_and_answered_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation kept every request waiting for its whole deadline, and /readyz did not say why."""
    async with started(monkeypatch, "raise SystemExit(3)") as worker:
        with pytest.raises(Unavailable) as waited:  # it was asked before the first process had ended
            await draw(worker)
        assert not isinstance(waited.value, WorkerLost)  # nobody's drawing killed it
        assert "exit code 3" in worker.start_failure
        assert "/readyz" in waited.value.message
        with pytest.raises(Unavailable):  # from then on at once, before anything is fetched
            worker.require("mini", "mini")


@pytest.mark.anyio
async def test_a_worker_that_comes_up_after_all_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(monkeypatch, "raise SystemExit(3)", UP) as worker:
        with pytest.raises(Unavailable):
            await draw(worker)
        async with asyncio.timeout(30):
            while not worker.up:  # noqa: ASYNC110, it is told by nobody
                await asyncio.sleep(0.01)
        assert worker.start_failure == ""
        worker.require("mini", "mini")


@pytest.mark.anyio
async def test_a_program_that_cannot_be_started_is_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(monkeypatch, "") as worker:
        monkeypatch.setattr(interpreter, "python", lambda module: ["/nowhere/python"])
        with pytest.raises(Unavailable):
            await draw(worker)
        async with asyncio.timeout(30):
            while "FileNotFoundError" not in worker.start_failure:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "/nowhere" not in worker.start_failure  # /readyz shows it to anyone


@pytest.mark.anyio
async def test_a_worker_is_killed_without_asking_first_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that had just ended was told of as unknown on the terminal, with exit code 255: it was asked for twice."""
    monkeypatch.setattr(subprocess.Popen, "poll", None)  # whoever asks fails
    async with started(monkeypatch, UP.replace("sleep(1)", "sleep(600)")) as worker:
        async with asyncio.timeout(30):
            while not worker.up:  # noqa: ASYNC110, it is told by nobody
                await asyncio.sleep(0.01)
        process = worker._process
        assert process is not None
        worker._kill()
        assert await process.wait() == -signal.SIGKILL


GARBLED = UP.replace("time.sleep(1)", "link.sendall(bytes([0, 0, 0, 1, 0xC1])); time.sleep(600)")


@pytest.mark.anyio
async def test_a_killed_worker_has_ended_before_another_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver still held its memory: the next one took what was left for the whole device, for its whole life."""
    ends: list[int | None] = []
    kill = LocalWorker._kill

    def kill_late(worker: LocalWorker) -> None:
        """The end of a process that holds a device takes a while."""
        asyncio.get_running_loop().call_later(0.3, kill, worker)

    monkeypatch.setattr(LocalWorker, "_kill", kill_late)
    async with started(monkeypatch, GARBLED) as worker:
        async with asyncio.timeout(30):
            while worker._process is None:  # noqa: ASYNC110, it is told by nobody
                await asyncio.sleep(0.01)
            first, command = worker._process, interpreter.python

            def look(module: str) -> list[str]:
                ends.append(first.returncode)
                return command(module)

            monkeypatch.setattr(interpreter, "python", look)
            while not ends:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert ends[0] == -signal.SIGKILL


REFUSED = """if True:
    import socket, sys
    from server.worker import protocol
    link = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    link.sendall(protocol.pack(protocol.Refused("the driver is too old")))
"""


@pytest.mark.anyio
async def test_a_device_that_cannot_be_used_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(monkeypatch, REFUSED) as worker:
        told: list[str] = []
        worker.on_refused = told.append
        with pytest.raises(Unavailable):
            await draw(worker)
        assert told == ["the driver is too old"]
        assert worker.start_failure == "the driver is too old"
        assert worker._supervisor is not None
        async with asyncio.timeout(10):
            await worker._supervisor  # it said that another was started, in the log of a server that ended


@pytest.mark.anyio
async def test_a_device_that_was_there_once_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is being reset comes back: its server must not end for good."""
    told: list[str] = []
    async with started(monkeypatch, UP.replace("sleep(1)", "sleep(0)"), REFUSED) as worker:
        worker.on_refused = told.append
        async with asyncio.timeout(30):
            while worker.start_failure != "the driver is too old":  # noqa: ASYNC110, it is told by nobody
                await asyncio.sleep(0.01)
    assert not told
