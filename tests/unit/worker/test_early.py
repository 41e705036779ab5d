"""Worker processes that were started before their server."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from server import interpreter
from server.commands import early
from server.errors import ConfigError
from server.settings import Settings
from server.telemetry import Metrics
from server.worker.devices import WorkerDevice
from server.worker.launch import Early, EarlyChild
from server.worker.local import LocalWorker
from server.worker.member import Assignment
from tests.unit.worker.test_local_start import UP

CPU = WorkerDevice("cpu", "cpu")


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "python", lambda module: [sys.executable, "-c", UP])
    monkeypatch.setattr("server.worker.local._FIRST_BACKOFF_S", 0.01)


async def up(worker: LocalWorker) -> None:
    async with asyncio.timeout(60):
        while not worker.up:  # noqa: ASYNC110, it is told by nobody
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_the_first_process_of_a_worker_is_the_one_that_was_started_early() -> None:
    """Torch was imported only once the front had imported all of its own, built its application and listened."""
    begun = Early(Settings(), (CPU,))
    child = begun.take(CPU)
    assert child is not None
    worker = LocalWorker(Assignment(Settings(), (), (), Metrics(), CPU, early=child))
    worker.start()
    try:
        await up(worker)
        assert worker.pid == child.pid
        assert begun.take(CPU) is None, "a worker that is made anew for the device has a process of its own"
        begun.close()  # it is the worker's now
        assert child.returncode is None
        os.kill(child.pid, 9)
        assert await child.wait() == -9
        async with asyncio.timeout(60):
            while worker.pid == child.pid:  # noqa: ASYNC110, it is told by nobody
                await asyncio.sleep(0.01)
        await up(worker)
    finally:
        await worker.stop()


def test_those_that_nobody_uses_end() -> None:
    """A server that cannot start, as its port is taken, leaves no process behind."""
    found: list[EarlyChild | None] = []

    def start() -> None:
        with early.workers(Settings(devices="cpu,cpu")) as begun:
            assert begun is not None
            found.extend(begun.take(device) for device in begun.devices)
            assert [child.returncode for child in found if child is not None] == [None, None]
            raise ConfigError("port 80 is taken")

    with pytest.raises(ConfigError):
        start()
    assert [child.returncode for child in found if child is not None] == [-9, -9]


def test_a_process_that_cannot_be_started_early_is_the_servers_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "python", lambda module: ["/nowhere/python"])
    begun = Early(Settings(), (CPU,))
    assert begun.take(CPU) is None


def test_a_front_of_a_cluster_starts_none() -> None:
    with early.workers(Settings(cluster="local")) as begun:
        assert begun is None
