"""The feeder: gives async jobs permits as they come free, and carries each from there to its end.

Knows the backlog, the queue and what may be tried again; knows nothing of HTTP. A request whose client waits has a
permit at once or is refused; async jobs take what is left, and half of all permits at most.

A job that has begun and whose process ended is drawn once more, with the same seeds; a second time it is lost. So it is
with the front itself: what had begun when it was killed has begun once. What a server that ends in good order leaves
undone has not begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from server.errors import Busy, DarkroomError, Draining, JobCancelled, JobLost, ServerFault, Unavailable, WorkerLost
from server.jobs.accounts import Accounts, Charge
from server.jobs.backlog import Backlog, Held, Kept
from server.jobs.budget import Budget
from server.jobs.job import State
from server.jobs.limits import Payer
from server.jobs.queue import JobQueue
from server.jobs.runner import Assignment, JobRunner
from server.jobs.work import Work
from server.storage.async_jobs import RowState, Source
from server.storage.database import DatabaseFailed
from server.storage.ownership import Ownership

_ROOM_S = 10.0  # for which a job waits until there is room for its request
_MAX_BEGUN = 2  # times
_FIRST_DELAY_S, _MAX_DELAY_S = 1.0, 60.0  # before what came to nothing is tried again
LOOK_EVERY_S = 30.0  # for keys that were revoked, rows whose time is over, ends that could not be written
_OPENED_S = 5.0  # after the start, for a request to wait until the jobs of before have been read
_CUT_OFF_S = 5.0  # for what is cut off to be written down

Revive = Callable[[Payer, bytes, Sequence[Source]], Awaitable[Assignment[Kept]]]

log = logging.getLogger("darkroom.jobs")


def _nobody(payer: Payer, request: bytes, sources: Sequence[Source]) -> Awaitable[Assignment[Kept]]:
    raise NotImplementedError


class Feeder:
    """Works off the backlog of one data folder, if no other server does."""

    def __init__(
        self,
        backlog: Backlog,
        queue: JobQueue,
        runner: JobRunner,
        ownership: Ownership,
        *,
        share: int,
        job_timeout_s: float,
        budget: Budget,
        accounts: Accounts,
        payer_of: Callable[[str], Payer | None],
    ) -> None:
        """``share``: permits at a time. ``payer_of``: whose use is counted for the principal of this id; None for one
        whose key is no more."""
        self.revive: Revive = _nobody  # the assignment of a row's request
        self._backlog = backlog
        self._queue = queue
        self._runner = runner
        self._ownership = ownership
        self._share = max(1, share)
        self._job_timeout_s = job_timeout_s
        self._budget = budget
        self._accounts = accounts
        self._payer_of = payer_of
        backlog.has_permit = self._has_permit
        self._started_s = time.monotonic()
        self._opened = asyncio.Event()
        self._wake = asyncio.Event()
        self._carrying: set[asyncio.Task[None]] = set()
        self._stopping = False
        queue.on_free = backlog.on_change = self._wake.set

    async def is_open(self) -> bool:
        """Are the jobs of before known, and the folder ours? As the server starts, waits a moment for it."""
        left_s = self._started_s + _OPENED_S - time.monotonic()
        if left_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), left_s)
        return self._opened.is_set()

    async def opened(self) -> bool:
        """Return, with true, once the folder is ours and its jobs are known."""
        return await self._opened.wait()

    async def run(self) -> None:
        """Own the folder, take up what was left, and feed. Until it is cancelled."""
        await self._ownership.gained()
        while True:
            if await self._take_up():
                break
            await asyncio.sleep(_FIRST_DELAY_S)
        self._opened.set()
        looked_s = 0.0
        while True:
            self._wake.clear()
            if time.monotonic() - looked_s >= LOOK_EVERY_S:
                await self._look_round()
                looked_s = time.monotonic()
            now_s = time.monotonic()  # one for both: what is too early for the first is waited for by the second
            self._feed(now_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_EVERY_S, self._backlog.next_try_s(now_s) - now_s)):
                    await self._wake.wait()

    async def stop(self, within_s: float) -> None:
        """Let what is drawn finish for so long; the rest stays on the disk as if it had not begun. The loop of ``run``
        has ended before."""
        self._stopping = True
        if self._carrying:
            await asyncio.wait(self._carrying, timeout=within_s)
        for held in self._backlog:
            if held.fed:
                held.cut_off = True
                if held.work is not None:
                    held.work.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying, timeout=_CUT_OFF_S)
        await self._backlog.record_again()
        await self._backlog.close()
        self._ownership.release()

    async def _take_up(self) -> bool:
        """Hold what was left undone; False where it cannot be read."""
        try:
            rows = await self._backlog.table.unfinished()
        except DatabaseFailed as error:
            log.error("async jobs not read", extra={"reason": error.reason})
            return False
        for row in rows:
            held = self._backlog.enrol(row)
            self._set_aside(held)
            if row.state is RowState.BEGUN:
                if row.begun >= _MAX_BEGUN:
                    await self._fail(held, _lost())
                else:  # in this process it has not: what it comes to before that takes nothing off what was counted
                    held.row = msgspec.structs.replace(row, state=RowState.WAITING)
        if rows:
            log.info("async jobs taken up", extra={"jobs": len(rows)})
        return True

    async def _look_round(self) -> None:
        for held in self._backlog:
            if self._payer_of(held.row.principal) is None:
                await self._backlog.drop(held)
        await self._backlog.record_again()
        with contextlib.suppress(DatabaseFailed):
            await self._backlog.tidy()

    def _feed(self, now_s: float) -> None:
        """Give permits to jobs, as many as are free and theirs."""
        while not self._stopping and self._backlog.fed < self._share:
            held = self._backlog.next(now_s)
            if held is None:
                return
            payer = self._payer_of(held.row.principal)
            if payer is not None:
                permit = contextlib.ExitStack()
                permit.enter_context(self._queue.permit(payer.id, payer.limits.jobs))
                self._backlog.feed(held, time.monotonic() + self._job_timeout_s)
                self._charge(held, payer, permit)
                work = self._carry(held, payer, permit)
            else:
                held.not_before_s = time.monotonic() + LOOK_EVERY_S
                work = self._backlog.drop(held)
            task = asyncio.create_task(work, name="async-job")
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

    async def _carry(self, held: Held, payer: Payer, permit: contextlib.ExitStack) -> None:
        """A job from its permit to its end, or back to those that wait."""
        with permit:
            hold = permit.enter_context(self._budget.hold(held.row.principal, of_a_job=True))
            try:
                await hold.wait(held.row.size, within_s=_ROOM_S)
                loaded = await self._backlog.table.load(held.row.key)
                if held.unwanted or loaded is None:
                    held.job.transition(State.CANCELLED)
                    await self._backlog.end(held, RowState.CANCELLED)
                    return
                assignment = await self.revive(payer, *loaded)
            except (Busy, DatabaseFailed):
                self._back(held)
                return
            except DarkroomError as error:
                if not await self._goes_back(held, error):
                    await self._fail(held, error)
                return
            except Exception as error:
                log.error("async job not read", extra={"job": held.row.key, "error": type(error).__name__})
                await self._fail(held, ServerFault("The server failed on this job; its log says why."))
                return
            held.job.hold = hold
            life = self._runner.run(held.job, assignment, begun=functools.partial(self._begun, held))
            held.work = Work(held.job, life, permit.pop_all().close)
            held.job.cancel = functools.partial(_cancel, held, held.work)
        if held.unwanted or held.cut_off:
            held.work.cancel()
        with held.work.waiter():
            await self._await_end(held, held.work)

    async def _await_end(self, held: Held, work: Work[Kept]) -> None:
        try:
            kept = await work.outcome()
        except JobCancelled:
            if not await self._goes_back(held, None if held.cut_off and not held.unwanted else JobCancelled("")):
                await self._backlog.end(held, RowState.CANCELLED)
        except DarkroomError as error:
            if not await self._goes_back(held, error):
                lost = isinstance(error, WorkerLost)
                await self._backlog.end(held, RowState.FAILED, error=_lost() if lost else error)
        except Exception:
            await self._backlog.end(held, RowState.FAILED, error=held.job.error)
        else:
            await self._backlog.end(held, RowState.DONE, kept=kept)

    async def _begun(self, held: Held) -> None:
        """It is drawn from now on. Where that cannot be written down, it is drawn all the same."""
        await self._backlog.write(held, state=RowState.BEGUN, begun=held.row.begun + 1)

    async def _goes_back(self, held: Held, error: DarkroomError | None) -> bool:
        """Have it wait again after ``error`` (None: it was cut off) if that may help. Whether it does."""
        has_begun = held.row.state is RowState.BEGUN
        by_the_server = error is None or isinstance(error, Draining)
        if not by_the_server:
            if not isinstance(error, Busy | Unavailable) or not error.answer.retry:
                return False
            untouched = isinstance(error, Unavailable) and not error.started
            if has_begun and not untouched and held.row.begun >= _MAX_BEGUN:
                return False
            by_the_server = untouched
        if has_begun:
            begun = held.row.begun - by_the_server
            await self._backlog.write(held, state=RowState.WAITING, begun=begun)
        self._back(held)
        return True

    def _back(self, held: Held) -> None:
        held.tries += 1
        self._backlog.back(held, after_s=min(_MAX_DELAY_S, _FIRST_DELAY_S * 2 ** (held.tries - 1)))
        self._set_aside(held)

    def _has_permit(self, principal: str) -> bool:
        """Would it be granted one, or is it one to be dropped?"""
        payer = self._payer_of(principal)
        return payer is None or self._queue.has_permit(principal, payer.limits.jobs)

    def _set_aside(self, held: Held) -> None:
        """Pictures and steps for a job that waits."""
        payer = self._payer_of(held.row.principal)
        if payer is not None and not held.job.ended.is_set():
            held.job.charge = self._open(held, payer)

    def _charge(self, held: Held, payer: Payer, permit: contextlib.ExitStack) -> None:
        """From its permit to its end it pays like any other, in place of what was set aside for it."""
        if held.job.charge is not None:
            held.job.charge.close()
        charge = self._open(held, payer)
        permit.callback(charge.close)
        held.job.charge = charge

    def _open(self, held: Held, payer: Payer) -> Charge:
        """Its quota was asked when it was admitted, and is not asked again."""
        row, unlimited = held.row, Payer(payer.id, payer.name)
        return self._accounts.open(unlimited, row.model, row.n, held.job.key, megapixel_steps=row.megapixel_steps)

    async def _fail(self, held: Held, error: DarkroomError) -> None:
        """End a job that has no work."""
        held.job.error = error
        held.job.transition(State.FAILED)
        await self._backlog.end(held, RowState.FAILED, error=error)


def _cancel(held: Held, work: Work[Kept]) -> None:
    """What DELETE does while there is work."""
    held.unwanted = True
    work.cancel()


def _lost() -> ServerFault:
    return JobLost("The job was begun twice, and each time the process that drew it ended. It is not tried again.")
