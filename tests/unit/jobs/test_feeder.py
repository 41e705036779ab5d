"""The feeder: what becomes of async jobs between their permit and their end, and in the next process."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from pipelines.plan import Drawing
from pipelines.spec import Encoding
from server.errors import DarkroomError, OutOfDeviceMemory, QueueFull
from server.jobs import feeder as module
from server.jobs.accounts import Accounts
from server.jobs.backlog import Backlog, Kept
from server.jobs.budget import Budget
from server.jobs.feeder import Feeder
from server.jobs.further import Further
from server.jobs.job import Job, State
from server.jobs.limits import Payer
from server.jobs.queue import JobQueue
from server.jobs.registry import JobRegistry
from server.jobs.runner import Assignment
from server.storage.async_jobs import SCHEMA, AsyncJobRow, AsyncJobs, RowState, Source
from server.storage.database import FILE_NAME, Database
from server.storage.ownership import Ownership
from server.telemetry import Metrics
from server.worker import failures
from server.worker.protocol import Finished
from tests.unit.jobs.doubles import FakeAssignment, FakeWorker, make_runner

pytestmark = pytest.mark.anyio


class Assigned:
    """A drawing whose pictures are kept."""

    encoding = Encoding("png")

    async def prepare(self, job: Job) -> Drawing:
        return await FakeAssignment().prepare(job)

    async def follow(self, job: Job, drawing: Drawing, finished: Finished) -> tuple[Further, ...]:
        return ()

    def to_follow(self, drawing: Drawing) -> float:
        return 0.0

    async def deliver(self, job: Job, drawing: Drawing, finished: Finished) -> Kept:
        return Kept(b"result", int(time.time()) + 3600)


class Front:
    """What a server has for its async jobs. Its worker draws while ``worker.gate`` is open."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / FILE_NAME, [SCHEMA])
        self.table = AsyncJobs(self.database)
        self.worker = FakeWorker()
        self.queue = JobQueue(4, slots=1)
        self.jobs = JobRegistry(self.queue)
        self.accounts = Accounts(None, Metrics())
        self.backlog = Backlog(self.table, self.jobs, self.queue, limit=10, keep_s=600)
        self.refusal: DarkroomError | None = None  # of every request that is read again
        self.reading = asyncio.Event()  # it is read once this is set
        self.reading.set()
        self.revived = 0
        self.feeder = Feeder(
            self.backlog,
            self.queue,
            make_runner(self.queue, self.worker),
            Ownership(folder / "lock"),
            share=2,
            job_timeout_s=60,
            budget=Budget(sys.maxsize),
            accounts=self.accounts,
            payer_of=lambda principal: Payer(principal, principal),
        )
        self.feeder.revive = self._revive

    async def _revive(self, payer: Payer, request: bytes, sources: Sequence[Source]) -> Assignment[Kept]:
        self.revived += 1
        await self.reading.wait()
        if self.refusal is not None:
            raise self.refusal
        return Assigned()


@contextlib.asynccontextmanager
async def serving(folder: Path, prepare: Callable[[Front], object] = lambda front: None) -> AsyncIterator[Front]:
    """A front until it is stopped in good order, with no time for what is drawn."""
    front = Front(folder)
    prepare(front)
    running = asyncio.create_task(front.feeder.run())
    try:
        assert await front.feeder.is_open()
        yield front
    finally:
        running.cancel()
        await asyncio.wait({running})
        await front.feeder.stop(0)
        await front.database.close()


async def kept(
    folder: Path, key: str, *, state: RowState = RowState.WAITING, begun: int = 0, megapixel_steps: float = 0.0
) -> None:
    """A row that an earlier process has left."""
    database = Database(folder / FILE_NAME, [SCHEMA])
    row = AsyncJobRow(
        key=key, principal="ada", name=key, model="m", n=1, created=1, fingerprint=b"f", size=1,
        state=state, begun=begun, megapixel_steps=megapixel_steps,
    )  # fmt: skip
    await AsyncJobs(database).add(row, b"request", [], now=1)
    await database.close()


def stored(folder: Path, key: str) -> tuple[str, int]:
    """What is on the disk of a job's state, and how often it has begun."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        state, begun = connection.execute("SELECT state, begun FROM async_jobs WHERE key = ?", (key,)).fetchone()
    return state, begun


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110, much of it is on the disk
            await asyncio.sleep(0.005)


async def test_what_a_process_stops_before_it_has_begun_has_begun_no_less_often(tmp_path: Path) -> None:
    """It had begun when the process before was killed. Stopped in good order since, it was taken for not begun."""
    await kept(tmp_path, "one", state=RowState.BEGUN, begun=1)
    async with serving(tmp_path, lambda front: front.reading.clear()) as front:
        await until(lambda: front.revived)
        front.refusal = failures.cannot_start()
        front.reading.set()
        await until(lambda: front.queue.held == 0)
        assert stored(tmp_path, "one")[1] == 1
    async with serving(tmp_path, lambda front: front.worker.gate.clear()) as front:
        await until(front.worker.drawing.is_set)
        assert stored(tmp_path, "one") == ("begun", 2)  # killed now, it would be lost
    assert stored(tmp_path, "one") == ("waiting", 1)


async def test_while_no_worker_comes_up_jobs_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY_S", 0.01)

    def cannot_start(front: Front) -> None:
        front.refusal = failures.cannot_start()

    for key in ("one", "two"):
        await kept(tmp_path, key)
    async with serving(tmp_path, cannot_start) as front:
        await until(lambda: front.revived >= 6)
        assert stored(tmp_path, "one") == stored(tmp_path, "two") == ("waiting", 0)
        front.refusal = None
        await until(lambda: not len(front.backlog))
    assert stored(tmp_path, "one") == stored(tmp_path, "two") == ("done", 1)


async def test_whoever_cancels_a_job_that_goes_back_is_answered(tmp_path: Path) -> None:
    """A new job stood in its place, and DELETE waited for ever for the end of the old one."""
    await kept(tmp_path, "one")
    async with serving(tmp_path, lambda front: front.reading.clear()) as front:
        await until(lambda: front.revived)
        job = front.jobs.get("ada", "one")
        job.cancel()
        front.refusal = QueueFull("The queue is full.")
        front.reading.set()
        await until(job.ended.is_set)
        assert job.state is State.CANCELLED
        assert front.jobs.get("ada", "one") is job
        row = await front.backlog.find("ada", "one", job)
        assert row is not None
        assert row.state is RowState.CANCELLED
        assert front.accounts.today(Payer("ada", "ada")).pictures == 0
    assert stored(tmp_path, "one") == ("cancelled", 0)


async def test_steps_stay_set_aside_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the permit, after a retry and after a restart they were given back, for others to be asked with."""
    monkeypatch.setattr(module, "_FIRST_DELAY_S", 0.01)
    await kept(tmp_path, "one", megapixel_steps=5.0)

    def begin(front: Front) -> None:
        front.reading.clear()
        front.worker.gate.clear()

    def set_aside(front: Front) -> tuple[int, float]:
        today = front.accounts.today(Payer("ada", "ada"))
        return today.pictures, today.megapixel_steps

    async with serving(tmp_path, begin) as front:
        await until(lambda: front.revived)
        assert set_aside(front) == (1, 5.0)
        front.refusal = failures.cannot_start()
        front.reading.set()
        await until(lambda: front.revived > 2)
        assert set_aside(front) == (1, 5.0)
        front.refusal = None
        await until(front.worker.drawing.is_set)
        assert set_aside(front) == (1, 0.008192)  # 64x64 in 2 steps: now it is known
        front.worker.failure = OutOfDeviceMemory("No room.")
        front.reading.clear()
        before = front.revived
        front.worker.gate.set()
        await until(lambda: front.revived > before)
        assert set_aside(front) == (1, 5.0)
        front.worker.failure = None
        front.reading.set()
        await until(lambda: not len(front.backlog))
        assert set_aside(front) == (1, 0.0)  # the picture was delivered
