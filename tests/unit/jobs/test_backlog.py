"""The backlog: its bound, and what is set aside for a job that is on its way to the disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from server.errors import JobNotKept, QueueFull
from server.jobs.accounts import Accounts
from server.jobs.backlog import Backlog
from server.jobs.limits import Payer
from server.jobs.queue import JobQueue
from server.jobs.registry import JobRegistry
from server.storage.async_jobs import SCHEMA, AsyncJobRow, AsyncJobs, Source
from server.storage.database import FILE_NAME, Database, DatabaseFailed
from server.telemetry import Metrics

pytestmark = pytest.mark.anyio

ADA = Payer("ada", "ada")
ROW = AsyncJobRow(
    key="job_1", principal="ada", name="job_1", model="m", n=2, created=1, fingerprint=b"f", size=1, megapixel_steps=5.0
)


class SlowTable(AsyncJobs):
    """Writes once the gate is open; fails as told."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

    async def add(self, row: AsyncJobRow, request: bytes, sources: Sequence[Source], *, now: int) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        await super().add(row, request, sources, now=now)


class Waiting:
    """A backlog of one job, and the accounts of those who ask for it."""

    def __init__(self, database: Database) -> None:
        queue = JobQueue(1, slots=1)
        self.table = SlowTable(database)
        self.backlog = Backlog(self.table, JobRegistry(queue), queue, limit=1, keep_s=600)
        self.accounts = Accounts(None, Metrics())

    async def ask(self) -> None:
        with self.backlog.room() as room:
            room.charge = self.accounts.open(ADA, ROW.model, ROW.n, ROW.key, megapixel_steps=ROW.megapixel_steps)
            await self.backlog.add(ROW, b"request", [], room)

    async def ask_and_leave(self) -> None:
        """While the row is on its way to the disk."""
        asking = asyncio.create_task(self.ask())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled()

    @property
    def set_aside(self) -> tuple[int, float]:
        today = self.accounts.today(ADA)
        return today.pictures, today.megapixel_steps

    def has_room(self) -> bool:
        try:
            with self.backlog.room():
                return True
        except QueueFull:
            return False


@contextlib.asynccontextmanager
async def waiting(folder: Path) -> AsyncIterator[Waiting]:
    database = Database(folder / FILE_NAME, [SCHEMA])
    try:
        yield Waiting(database)
    finally:
        await database.close()


async def test_a_client_that_leaves_meanwhile_pays_for_the_job_that_it_has(tmp_path: Path) -> None:
    """What was set aside was given back, and so was the place: the job was one more than there may be."""
    async with waiting(tmp_path) as front:
        await front.ask_and_leave()
        assert not front.has_room()
        front.table.gate.set()
        await front.backlog.close()
        assert (len(front.backlog), front.has_room()) == (1, False)
        assert front.set_aside == (2, 5.0)


async def test_nothing_is_set_aside_for_a_job_that_could_not_be_kept(tmp_path: Path) -> None:
    async with waiting(tmp_path) as front:
        front.table.failure = DatabaseFailed("the disk is full")
        await front.ask_and_leave()
        front.table.gate.set()
        await front.backlog.close()
        assert (front.set_aside, front.has_room()) == ((0, 0.0), True)
        with pytest.raises(JobNotKept):
            await front.ask()
        assert (front.set_aside, front.has_room()) == ((0, 0.0), True)
