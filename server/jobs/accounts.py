"""Accounts: what each key has used of its day, what is set aside for its jobs, and when it has had enough.

Knows quotas, days and the database; knows neither HTTP nor drawings. All methods run on the event loop's thread.

A job is charged to the UTC day of its admission, whenever it ends: what is set aside and what is booked are always of
the same day, whatever the clock does meanwhile. Nothing else depends on how time passes, so a clock that jumps chooses
another day's account, and never leaves one with a sum that is wrong.

    open ──▶ draws (sets the steps aside) ──▶ spent … spent ──▶ delivered ──▶ close
     sets the pictures aside                   books steps        books         gives back what is left of both

What is booked counts at once, here, and is written a second later. Where the database fails, it is kept here until it
can be written: no picture ever waits for a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from server.errors import QuotaExceeded
from server.jobs import usage
from server.jobs.limits import Payer
from server.jobs.usage import Place, Row, Spending
from server.storage.database import Database, DatabaseFailed
from server.telemetry import Metrics

log = logging.getLogger("darkroom.jobs")

DAY_S = 86_400
_WRITE_S = 1.0  # after something was booked
_RETRY_S = 5.0
_MAX_UNWRITTEN = 10_000  # rows, while the database fails
_MAX_DAYS = 4  # whose accounts are kept without need
_LATE_S, _MAX_LATE = 900.0, 4096  # for which a worker may still tell what an ended job has taken; a step may be long
_ROUNDING = 1e-6  # megapixel-steps


@dataclass(eq=False)
class _Account:
    """One key's day."""

    used: Spending = field(default_factory=Spending)
    open: set[Charge] = field(default_factory=set)  # by jobs that go on

    @property
    def pictures(self) -> int:
        """Used, and set aside."""
        return self.used.pictures + sum(charge.pictures for charge in self.open)

    @property
    def megapixel_steps(self) -> float:
        """Used, and set aside."""
        return self.used.megapixel_steps + sum(charge.megapixel_steps for charge in self.open)


@dataclass(eq=False)
class Charge:
    """What one job pays. ``pictures`` and ``megapixel_steps`` are what is still set aside for it."""

    _accounts: Accounts
    payer: Payer
    model: str
    job: str  # its key
    day: str
    pictures: int
    megapixel_steps: float = 0.0
    _steps: dict[str, float] = field(default_factory=dict)  # megapixels of one step of each of its drawings, by ID
    _closed: bool = False

    def draws(self, width: int, height: int, pictures: int, steps: int, *, then: float = 0.0) -> None:
        """It is about to draw so many pictures of so many pixels, in this many steps at most, and ``then`` so many
        megapixel-steps of them. Raises QuotaExceeded."""
        self._steps[self.job] = width * height * pictures / 1e6
        asked = self._steps[self.job] * steps + then
        self._accounts.require_megapixel_steps(self, asked)
        self.megapixel_steps = asked

    def draws_further(self, drawing: str, width: int, height: int, pictures: int) -> None:
        """One more drawing of the job begins, under an ID of its own."""
        self._steps[drawing] = width * height * pictures / 1e6
        self._accounts.named(self, drawing)

    def spent(self, steps: int, device_s: float, drawing: str = "") -> None:
        """So much was drawn; default: of the job's first drawing."""
        drawn = self._steps.get(drawing or self.job, 0.0) * steps
        self.megapixel_steps = 0.0 if self._closed else max(0.0, self.megapixel_steps - drawn)
        self._accounts.book(self.payer, self.model, megapixel_steps=drawn, device_s=device_s, day=self.day)

    @property
    def drawings(self) -> tuple[str, ...]:
        """The IDs of those that have begun."""
        return tuple(self._steps)

    def delivered(self, pictures: int) -> None:
        """So many pictures have come out."""
        self.pictures = max(0, self.pictures - pictures)
        self._accounts.book(self.payer, self.model, pictures=pictures, day=self.day)

    def close(self) -> None:
        """The job has ended: nothing is set aside any more. What is told later is booked all the same."""
        if not self._closed:
            self._closed, self.pictures, self.megapixel_steps = True, 0, 0.0
            self._accounts.closed(self)


@dataclass(frozen=True)
class Today:
    """Where a key stands in its day."""

    day: str
    ends: int  # unix seconds
    used: Spending
    pictures: int  # used, and set aside for jobs that go on
    megapixel_steps: float


class Accounts:
    """Every key's account."""

    def __init__(self, database: Database | None, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
        """Without a ``database`` all is kept here alone, for tests. ``clock``: unix seconds."""
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._days: OrderedDict[str, dict[str, _Account]] = OrderedDict()  # by day, then by key; the last used last
        self._loaded: set[str] = set()  # days whose accounts have what was on the disk
        self._jobs: dict[str, Charge] = {}  # by the IDs of their drawings; a job's key is that of its first
        self._late: OrderedDict[str, float] = OrderedDict()  # drawings of ended jobs, and when (monotonic)
        self._unwritten: dict[Place, Row] = {}
        self._on_their_way: dict[Place, Row] = {}  # to the disk
        self._lost = 0  # rows that there was no room for
        self.problem = ""  # for the operator: why use is not written
        self._changed, self._stopping = asyncio.Event(), asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    # Life.

    async def start(self) -> None:
        """Read what was used today; write what is booked from now on."""
        self._day(self._today())
        await self.write()
        self._task = asyncio.create_task(self._keep_written(), name="usage")

    async def stop(self) -> None:
        """Write what is left."""
        self._stopping.set()
        self._changed.set()
        if self._task is not None:
            await self._task
        if not await self.write():
            log.error("usage is lost", extra={"rows": len(self._unwritten), "reason": self.problem})

    async def _keep_written(self) -> None:
        while not self._stopping.is_set():
            await self._changed.wait()
            await self._pause(_WRITE_S)
            self._changed.clear()
            if not await self.write():
                self._changed.set()
                await self._pause(_RETRY_S)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # Jobs.

    def open(self, payer: Payer, model: str, pictures: int, job: str, *, megapixel_steps: float = 0.0) -> Charge:
        """Set so many pictures aside for the job of this key, and so many steps, where they are known from before.
        Raises QuotaExceeded."""
        day, limits = self._today(), payer.limits
        account = self._account(day, payer.id)
        most = limits.pictures_per_day
        if most is not None and account.pictures + pictures > most:
            self._metrics.quota_refused.labels("pictures").inc()
            raise QuotaExceeded(
                f"This key may make {most} pictures a day (UTC): {account.pictures} are made or being made, and this"
                f" request asks for {pictures}.",
                retry_after_s=self._left_s(),
            )
        charge = Charge(self, payer, model, job, day, pictures, megapixel_steps)
        self.require_megapixel_steps(charge, megapixel_steps)
        account.open.add(charge)
        self._jobs[job] = charge
        self._forget_late()
        return charge

    def require_megapixel_steps(self, charge: Charge, asked: float) -> None:
        """Raise QuotaExceeded where the day has no room for so many, or none at all."""
        most = charge.payer.limits.megapixel_steps_per_day
        if most is None:
            return
        taken = self._account(charge.day, charge.payer.id).megapixel_steps
        if taken + asked > most + _ROUNDING or taken >= most:
            self._metrics.quota_refused.labels("megapixel_steps").inc()
            wants = f", and this request asks for {asked:.1f}" if asked else ""
            raise QuotaExceeded(
                f"This key may draw {most:g} megapixel-steps (width × height × steps × pictures / 1,000,000) a day"
                f" (UTC): {taken:.1f} are drawn or being drawn{wants}.",
                retry_after_s=self._left_s(),
            )

    def spent(self, job: str, steps: int, device_s: float) -> None:
        """A worker has drawn so much of the drawing of this ID, whose job may have ended by now."""
        charge = self._jobs.get(job)
        if charge is not None:
            charge.spent(steps, device_s, job)

    def named(self, charge: Charge, drawing: str) -> None:
        """What is told of this drawing is told of the charge's job, too. Of ``Charge.draws_further``."""
        self._jobs[drawing] = charge

    def closed(self, charge: Charge) -> None:
        """A job has ended. Of ``Charge.close``."""
        self._account(charge.day, charge.payer.id).open.discard(charge)
        for drawing in {charge.job, *charge.drawings}:
            self._late[drawing] = time.monotonic()

    def book(
        self,
        payer: Payer,
        model: str,
        *,
        pictures: int = 0,
        megapixel_steps: float = 0.0,
        device_s: float = 0.0,
        day: str = "",
    ) -> None:
        """Count what a key has used, on the day of a job, or today: the one way to do so, whatever it was."""
        spent = Spending(max(0, pictures), max(0.0, megapixel_steps), max(0.0, device_s))
        if spent == Spending() or not (math.isfinite(spent.megapixel_steps) and math.isfinite(spent.device_s)):
            return
        day = day or self._today()
        self._account(day, payer.id).used.add(spent)
        self._note(Place(day, payer.id, model), Row(payer.name, spent))
        self._metrics.megapixel_steps.labels(model).inc(spent.megapixel_steps)
        self._metrics.device_seconds.labels(model).inc(spent.device_s)

    # Questions.

    def today(self, payer: Payer) -> Today:
        """Where a key stands."""
        now, day = self._clock(), self._today()
        account = self._account(day, payer.id)
        ends = int(now // DAY_S + 1) * DAY_S
        return Today(day, ends, account.used, account.pictures, account.megapixel_steps)

    async def between(self, since: str, until: str, key: str | None, most: int) -> tuple[dict[Place, Row], bool]:
        """What was used from one day to another, both included: by one key's id, or by all; and whether that is all.
        It is not where the database cannot be read. At most about ``most`` rows."""
        rows, is_all = dict[Place, Row](), True
        async with self._writing:  # what is on its way is neither here nor there
            if self._database is not None:
                try:
                    rows = await self._database.read(
                        partial(usage.between, since=since, until=until, key=key, most=most)
                    )
                except DatabaseFailed as error:
                    self._say(error.reason)
                    is_all = False
            for place, row in self._unwritten.items():
                if since <= place.day <= until and key in (None, place.key):
                    _add(rows, place, row)
        return dict(sorted(rows.items(), key=lambda item: (item[0].day, item[1].name, item[0].model))), is_all

    @property
    def unwritten(self) -> int:
        """Rows that wait to be written."""
        return len(self._unwritten)

    # The days.

    def _today(self) -> str:
        return day_of(self._clock())

    def _left_s(self) -> float:
        """Until the day ends."""
        return DAY_S - self._clock() % DAY_S

    def _account(self, day: str, key: str) -> _Account:
        return self._day(day).setdefault(key, _Account())

    def _day(self, day: str) -> dict[str, _Account]:
        if day not in self._days:
            self._days[day] = {}
            self._forget_days()
            self._changed.set()  # it is to be read
        self._days.move_to_end(day)
        return self._days[day]

    def _forget_days(self) -> None:
        """Drop days that nobody has looked at for longest, if nothing of them is open or unwritten."""
        needed = {place.day for place in (*self._unwritten, *self._on_their_way)}
        for day in list(self._days)[: max(0, len(self._days) - _MAX_DAYS)]:
            if day not in needed and not any(account.open for account in self._days[day].values()):
                del self._days[day]
                self._loaded.discard(day)

    def _forget_late(self) -> None:
        oldest_s = time.monotonic() - _LATE_S
        while self._late and (len(self._late) > _MAX_LATE or next(iter(self._late.values())) < oldest_s):
            job, _ = self._late.popitem(last=False)
            self._jobs.pop(job, None)

    # The disk.

    def _note(self, place: Place, row: Row) -> None:
        if place not in self._unwritten and len(self._unwritten) >= _MAX_UNWRITTEN:
            del self._unwritten[min(self._unwritten)]  # of the oldest day
            self._lost += 1
            if self._lost == 1:
                log.error("usage is lost: too much of it waits to be written", extra={"rows": _MAX_UNWRITTEN})
        _add(self._unwritten, place, row)
        self._changed.set()

    async def write(self) -> bool:
        """Write what was booked, and read the days that were not read yet. False where the database fails: all is as
        it was. Never cancel this: nobody would know which."""
        async with self._writing:
            days = [day for day in self._days if day not in self._loaded]
            if self._database is None or not (self._unwritten or days):
                return True
            rows, self._unwritten = self._unwritten, {}
            self._on_their_way = rows
            try:
                bases = await self._database.write(partial(_exchange, rows=rows, days=days))
            except Exception as error:
                later, self._unwritten = self._unwritten, rows
                for place, row in later.items():
                    self._note(place, row)
                if not isinstance(error, DatabaseFailed):
                    log.exception("usage cannot be written")
                self._say(error.reason if isinstance(error, DatabaseFailed) else type(error).__name__)
                return False
            finally:
                self._on_their_way = {}
            for day, base in bases.items():
                self._loaded.add(day)
                for key, spent in base.items():
                    self._account(day, key).used.add(spent)
            self._say("")
            return True

    def _say(self, problem: str) -> None:
        """To the log once, until it is another."""
        if problem and problem != self.problem:
            log.error("usage is kept in memory: the database cannot be used", extra={"reason": problem})
        elif self.problem and not problem:
            log.info("usage is written again")
        self.problem = problem


def day_of(now: float) -> str:
    """The UTC day of this moment (unix seconds)."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def _exchange(
    connection: sqlite3.Connection, rows: Mapping[Place, Row], days: list[str]
) -> dict[str, dict[str, Spending]]:
    """Read first: what these days have on the disk must not have what is written now."""
    bases = {day: usage.of_day(connection, day) for day in days}
    usage.add(connection, rows)
    return bases


def _add(rows: dict[Place, Row], place: Place, row: Row) -> None:
    known = rows.setdefault(place, Row(row.name, Spending()))
    known.name = row.name
    known.spent.add(row.spent)
