"""The backlog: the async jobs of this server that have not ended, those that wait for a permit and those that have one.

Knows rows, jobs and the order in which they are fed; knows neither HTTP nor pictures. What it holds is on the disk too,
so that it outlives the process. All methods run on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from server.errors import DarkroomError, JobNotKept, QueueFull
from server.jobs.accounts import Charge
from server.jobs.job import Job, State
from server.jobs.queue import JobQueue
from server.jobs.registry import JobRegistry
from server.jobs.work import Work
from server.storage.async_jobs import AsyncJobRow, AsyncJobs, RowState, Source, Telling
from server.storage.database import DatabaseFailed

_MIN_KEEP_ROW_S = 600  # after the result has expired, or the job has failed
_SETTLE_S = 10.0  # for an end to be on the disk

log = logging.getLogger("darkroom.jobs")

T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """What is kept of a job's outcome."""

    result: bytes
    expires: int  # unix seconds


@dataclass(eq=False)
class Held:
    """One job of the backlog. Its ``job`` is another after each time that it was begun and lost."""

    row: AsyncJobRow
    number: int  # in the order they came
    job: Job
    work: Work[Kept] | None = None  # once its request has been read again
    fed: bool = False  # it has a permit
    unwanted: bool = False  # cancelled by its client
    cut_off: bool = False  # cancelled, as the server ends
    tries: int = 0  # that came to nothing before it was begun, or by no fault of its own
    not_before_s: float = 0.0  # monotonic, for the next
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # its end is recorded, or could not be


@dataclass(eq=False)
class Room:
    """What is kept free for one job, and set aside for it. It is its request's until it is handed over."""

    charge: Charge | None = None
    handed_over: bool = False


class Backlog:
    """At most ``limit`` jobs. Rows stay ``keep_s`` after their results have expired."""

    def __init__(self, table: AsyncJobs, jobs: JobRegistry, queue: JobQueue, *, limit: int, keep_s: int) -> None:
        self.table = table
        self.on_change: Callable[[], None] = lambda: None  # one may be fed
        self.has_permit: Callable[[str], bool] = queue.has_permit  # for a principal
        self.on_ended: Callable[[], None] = lambda: None  # a webhook may be due
        self._jobs = jobs
        self._queue = queue
        self._limit = limit
        self._keep_s = max(_MIN_KEEP_ROW_S, keep_s)
        self._held: dict[str, Held] = {}  # by key
        self._unrecorded: set[str] = set()  # keys of those whose end is not on the disk
        self._ended_since = False  # a tidying
        self._kept_free: set[Room] = set()
        self._number = 0
        self._places: dict[str, int] | None = None  # of those that wait, by key; None: to be counted again
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    @contextlib.contextmanager
    def room(self) -> Iterator[Room]:
        """Keep a place free for one job inside, or until ``add`` has come to an end. Raises QueueFull."""
        if len(self._held) + len(self._kept_free) >= self._limit:
            raise QueueFull(
                f"{self._limit} async jobs wait here or are drawn already, as many as the setting async_jobs allows.",
                retry_after_s=self._queue.retry_after_s(),
            )
        room = Room()
        self._kept_free.add(room)
        try:
            yield room
        finally:
            if not room.handed_over:
                self._give_back(room)

    async def add(self, row: AsyncJobRow, request: bytes, sources: Sequence[Source], room: Room) -> Job:
        """Keep a new job, which has this ``room``; it is on the disk when this returns.

        Raises JobNotKept, NameTaken, and BadRequest for an id that a job of this principal has.
        """
        self._jobs.require_free(row.principal, row.name)
        # What is on the disk must be held: a client that leaves now has a job all the same, and pays for it.
        room.handed_over = True
        keeping = self._task(self._add(row, request, sources, room))
        keeping.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, even if nobody waits
        return await asyncio.shield(keeping)

    async def _add(self, row: AsyncJobRow, request: bytes, sources: Sequence[Source], room: Room) -> Job:
        try:
            await self.table.add(row, request, sources, now=int(time.time()))
        except BaseException as error:
            self._give_back(room)
            if not isinstance(error, DatabaseFailed):
                raise
            log.error("async job not kept", extra={"reason": error.reason})
            raise not_kept() from None
        held = self.enrol(row)
        self._kept_free.discard(room)
        held.job.charge = room.charge
        self._jobs.add(held.job)  # in place of one that failed, it stands last
        self.on_change()
        return held.job

    def _give_back(self, room: Room) -> None:
        """Nothing came of it."""
        self._kept_free.discard(room)
        if room.charge is not None:
            room.charge.close()

    def enrol(self, row: AsyncJobRow) -> Held:
        """Hold a job whose row is on the disk."""
        self._number += 1
        held = Held(row, self._number, Job(row.principal, row.model, math.inf))
        self._renew(held)
        self._jobs.replace(held.job)
        self._held[row.key] = held
        self._places = None
        return held

    def next(self, now_s: float) -> Held | None:
        """The job that is to have the next permit: of the principal that has fewest, the one that came first."""
        fed = Counter(held.row.principal for held in self._held.values() if held.fed)
        able = [held for held in self._waiting() if held.not_before_s <= now_s]
        principals = {name for name in {held.row.principal for held in able} if self.has_permit(name)}
        able = [held for held in able if held.row.principal in principals]
        return min(able, key=lambda held: (fed[held.row.principal], held.number), default=None)

    @property
    def fed(self) -> int:
        return sum(held.fed for held in self._held.values())

    def next_try_s(self, now_s: float) -> float:
        """When one may be tried for which it is too early now, monotonic; infinite: there is none."""
        early = (held.not_before_s for held in self._waiting() if held.not_before_s > now_s)
        return min(early, default=math.inf)

    def feed(self, held: Held, deadline_s: float) -> None:
        """It has a permit from now on."""
        held.fed = True
        held.job.deadline_s = deadline_s
        self._places = None

    def back(self, held: Held, *, after_s: float = 0.0) -> None:
        """It waits for a permit again, in its old place; or ends, if it is not wanted any more."""
        held.fed, held.work = False, None
        if held.unwanted and not held.job.ended.is_set():  # whoever cancelled it waits for the end of this very job
            self._cancel(held)
            return
        held.not_before_s = time.monotonic() + after_s
        self._renew(held)
        self._jobs.replace(held.job)
        self._places = None
        held.settled.set()
        held.settled = asyncio.Event()
        self.on_change()
        if held.unwanted:
            self._cancel(held)

    async def write(self, held: Held, **changes: Any) -> bool:
        """Change the row; whether it could be written."""
        held.row = msgspec.structs.replace(held.row, **changes)
        try:
            await self.table.update(held.row)
        except DatabaseFailed as error:
            log.error("async job not written", extra={"job": held.row.key, "reason": error.reason})
            return False
        return True

    async def end(
        self, held: Held, state: RowState, *, error: DarkroomError | None = None, kept: Kept | None = None
    ) -> None:
        """The job has ended; what it needed is deleted. Where that cannot be written, it is tried again later."""
        now = int(time.time())
        until = now if kept is None else kept.expires
        told = held.row.webhook is not None
        ended = await self.write(
            held,
            state=state,
            ended=now,
            expires=None if kept is None else kept.expires,
            forget=until + self._keep_s,
            steps_done=held.job.steps_done,
            steps_of=held.job.steps_of,
            error=None if error is None else json.dumps(error_fields(error)),
            result=None if kept is None else kept.result,
            telling=Telling.DUE if told else Telling.NONE,
            due=now if told else None,
        )
        self._settle(held, recorded=ended)

    async def record_again(self) -> None:
        """Write the ends that could not be written."""
        for key in list(self._unrecorded):
            held = self._held[key]
            if not await self.write(held):
                return
            self._unrecorded.discard(key)
            self._settle(held, recorded=True)

    async def drop(self, held: Held) -> None:
        """Forget a job that waits and that nobody may ask for any more."""
        if held.fed or held.job.ended.is_set():
            return
        held.job.transition(State.CANCELLED)
        with contextlib.suppress(DatabaseFailed):
            await self.table.drop(held.row.key)
        self._settle(held, recorded=True)

    async def tidy(self) -> None:
        """Forget rows whose time is over, and have what jobs needed leave the disk. Raises DatabaseFailed."""
        gone = await self.table.forget(int(time.time()))
        if gone or self._ended_since:
            self._ended_since = False
            await self.table.tidy()

    async def find(self, principal: str, name: str, job: Job | None) -> AsyncJobRow | None:
        """The row of a job, or of the newest of that name where ``job``, which has it now, is None. An end that is only
        just being written is waited for, and so is the job that takes the place of one that was lost."""
        if job is not None:
            held = self._held.get(job.kept_as)
            if held is not None and held.job.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(held.settled.wait(), _SETTLE_S)
            if held is not None:
                return held.row
            if not job.kept_as:
                return None
        try:
            row = await self.table.find(principal, name)
        except DatabaseFailed:
            return None
        return None if job is not None and row is not None and row.key != job.kept_as else row

    def row(self, key: str) -> AsyncJobRow | None:
        """The row of a job that is held."""
        held = self._held.get(key)
        return None if held is None else held.row

    async def whose(self, name: str) -> str | None:
        """The principal that has the newest job of this name on the disk; None where there is none, or the disk has
        failed."""
        try:
            row = await self.table.newest(name)
        except DatabaseFailed:
            return None
        return None if row is None else row.principal

    async def ended(self, principal: str | None) -> list[AsyncJobRow]:
        """The rows of the jobs of this principal, or of all, that have ended; none where the disk has failed."""
        try:
            return await self.table.ended(principal)
        except DatabaseFailed:
            return []

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _waiting(self) -> list[Held]:
        return [held for held in self._held.values() if not held.fed and not held.job.ended.is_set()]

    def _renew(self, held: Held) -> None:
        row = held.row
        held.job = Job(row.principal, row.model, math.inf, id=row.name, n=row.n, kept_as=row.key, created=row.created)
        held.job.cancel = lambda: self._cancel(held)
        held.job.ahead = lambda: self._place(row.key)

    def _cancel(self, held: Held) -> None:
        """What DELETE does before there is work; that has a way of its own."""
        held.unwanted = True
        if not held.fed and not held.job.ended.is_set():
            held.job.transition(State.CANCELLED)
            self._places = None
            self._task(self.end(held, RowState.CANCELLED))

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ``close`` waits for."""
        task = asyncio.create_task(work, name="backlog")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _place(self, key: str) -> int:
        if self._places is None:
            self._places = {held.row.key: place for place, held in enumerate(self._waiting())}
        return self._places.get(key, 0)

    def _settle(self, held: Held, *, recorded: bool) -> None:
        self._places = None
        if held.job.charge is not None:
            held.job.charge.close()
        held.fed, self._ended_since = False, True
        if recorded:
            self._held.pop(held.row.key, None)
        else:
            self._unrecorded.add(held.row.key)
        held.settled.set()
        self.on_change()
        self.on_ended()


def not_kept() -> JobNotKept:
    return JobNotKept(
        "The server cannot keep this job now: its database is full, cannot be written, or is another server's. Send the"
        " request without Prefer: respond-async, and wait for its answer."
    )


def error_fields(error: DarkroomError) -> dict[str, Any]:
    """An error as a job's row shows it."""
    return {"message": error.message, "type": error.answer.type, "param": error.param, "code": error.code}
