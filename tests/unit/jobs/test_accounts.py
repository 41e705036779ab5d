"""Quotas and what was used: set aside, booked, written, and right whatever clock and disk do."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from server.errors import QuotaExceeded
from server.jobs import accounts as module
from server.jobs.accounts import DAY_S, Accounts
from server.jobs.limits import Limits, Payer
from server.jobs.usage import SCHEMA, Place
from server.storage.database import Database
from server.telemetry import Metrics

pytestmark = pytest.mark.anyio

NOON = 20_000 * DAY_S + DAY_S // 2  # 2024-10-04
TODAY, TOMORROW = "2024-10-04", "2024-10-05"


class Clock:
    """The wall's, which may jump."""

    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "darkroom.db"


def payer(pictures: int | None = None, steps: float | None = None, name: str = "ada") -> Payer:
    return Payer(f"{name}-id", name, Limits(pictures_per_day=pictures, megapixel_steps_per_day=steps))


def kept(path: Path | None, clock: Clock) -> Accounts:
    database = None if path is None else Database(path, (SCHEMA,))
    return Accounts(database, Metrics(), clock=clock)


async def closed(accounts: Accounts) -> None:
    await accounts.stop()
    if accounts._database is not None:
        await accounts._database.close()


def on_disk(path: Path) -> dict[tuple[str, str], tuple[int, float]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT day, name, pictures, megapixel_steps FROM usage").fetchall()
    connection.close()
    return {(day, name): (pictures, steps) for day, name, pictures, steps in rows}


def put_away(path: Path) -> None:
    """A folder stands where the file was."""
    path.rename(path.with_name("away.db"))
    path.mkdir()


def put_back(path: Path) -> None:
    path.rmdir()
    path.with_name("away.db").rename(path)


async def test_two_requests_at_once_cannot_both_have_the_last_picture(clock: Clock) -> None:
    accounts, ada = kept(None, clock), payer(pictures=3)
    first = accounts.open(ada, "m", 2, "one")
    with pytest.raises(QuotaExceeded, match=r"3 pictures a day.*2 are made or being made.*asks for 2") as refused:
        accounts.open(ada, "m", 2, "two")
    assert refused.value.retry_after_s == DAY_S / 2
    last = accounts.open(ada, "m", 1, "three")
    with pytest.raises(QuotaExceeded):
        accounts.open(ada, "m", 1, "four")
    first.delivered(2)
    first.close()
    last.close()  # it failed: nothing for its picture
    assert accounts.today(ada).used.pictures == 2
    accounts.open(ada, "m", 1, "five")


async def test_each_key_has_its_own_and_one_without_limits_has_no_end(clock: Clock) -> None:
    accounts = kept(None, clock)
    accounts.open(payer(pictures=1), "m", 1, "one")
    accounts.open(payer(pictures=1, name="bob"), "m", 1, "two")
    for number in range(50):
        accounts.open(payer(name="eve"), "m", 10, f"job-{number}")
    assert accounts.today(payer(name="eve")).pictures == 500


async def test_a_quota_of_zero_is_nothing_at_all(clock: Clock) -> None:
    accounts = kept(None, clock)
    for none in (payer(pictures=0), payer(steps=0)):
        with pytest.raises(QuotaExceeded):
            accounts.open(none, "m", 1, "one")
        assert accounts.today(none).pictures == 0


async def test_steps_are_set_aside_before_they_are_drawn_and_paid_as_they_are(clock: Clock) -> None:
    accounts, ada = kept(None, clock), payer(steps=100)
    charge = accounts.open(ada, "m", 2, "one")
    charge.draws(1000, 1000, 2, 30)  # 60
    other = accounts.open(ada, "m", 1, "two")
    with pytest.raises(QuotaExceeded, match=r"100 megapixel-steps.*60\.0 are drawn or being drawn.*asks for 41\.0"):
        other.draws(1000, 1000, 1, 41)
    other.draws(1000, 1000, 1, 40)
    accounts.spent("one", 10, 0.5)
    assert (accounts.today(ada).used.megapixel_steps, accounts.today(ada).megapixel_steps) == (20, 100)
    charge.close()  # cancelled: it pays the steps that were drawn, and no picture
    assert (accounts.today(ada).used.megapixel_steps, accounts.today(ada).megapixel_steps) == (20, 60)
    accounts.spent("one", 1, 0.25)  # which were on their way
    today = accounts.today(ada)
    assert (today.used.megapixel_steps, today.used.device_s, today.used.pictures) == (22, 0.75, 0)
    other.close()
    with pytest.raises(QuotaExceeded):
        accounts.open(payer(steps=22), "m", 1, "three")  # nothing is left to draw one with


async def test_of_a_job_that_is_not_known_nothing_is_booked(clock: Clock) -> None:
    accounts = kept(None, clock)
    accounts.spent("another front's", 10, 1.0)
    accounts.book(payer(), "m", megapixel_steps=float("inf"))
    accounts.book(payer(), "m", device_s=-5.0)
    assert accounts.unwritten == 0


async def test_what_was_used_survives_a_restart_and_counts(path: Path, clock: Clock) -> None:
    accounts, ada = kept(path, clock), payer(pictures=3, steps=50)
    await accounts.start()
    charge = accounts.open(ada, "m", 2, "one")
    charge.draws(1000, 1000, 2, 10)
    accounts.spent("one", 10, 1.5)
    charge.delivered(2)
    charge.close()
    await closed(accounts)
    again = kept(path, clock)
    await again.start()
    used = again.today(ada).used
    assert (used.pictures, used.megapixel_steps, used.device_s) == (2, 20, 1.5)
    with pytest.raises(QuotaExceeded):
        again.open(ada, "m", 2, "two")
    again.open(ada, "m", 1, "three").delivered(1)
    await closed(again)
    assert on_disk(path) == {(TODAY, "ada"): (3, 20)}


async def test_a_job_is_charged_to_the_day_of_its_admission(path: Path, clock: Clock) -> None:
    accounts, ada = kept(path, clock), payer(pictures=2)
    await accounts.start()
    charge = accounts.open(ada, "m", 2, "one")
    clock.now += DAY_S
    assert accounts.today(ada).pictures == 0
    over_midnight = accounts.open(ada, "m", 2, "two")
    charge.delivered(2)
    charge.close()
    over_midnight.delivered(2)
    over_midnight.close()
    await closed(accounts)
    assert on_disk(path) == {(TODAY, "ada"): (2, 0), (TOMORROW, "ada"): (2, 0)}


@pytest.mark.parametrize("jump", [DAY_S, -DAY_S, 400 * DAY_S, -400 * DAY_S])
async def test_a_clock_that_jumps_leaves_no_key_stuck_and_counts_nothing_twice(
    path: Path, clock: Clock, jump: int
) -> None:
    accounts, ada = kept(path, clock), payer(pictures=2)
    await accounts.start()
    going_on = accounts.open(ada, "m", 1, "one")
    for number in range(6):  # there and back
        clock.now += jump if number % 2 == 0 else -jump
        charge = accounts.open(ada, "m", 1, f"job-{number}") if number < 2 else None
        if charge is not None:
            charge.delivered(1)
            charge.close()
        await accounts.write()
    going_on.delivered(1)
    going_on.close()
    assert clock.now == NOON
    assert accounts.today(ada).pictures == 2
    with pytest.raises(QuotaExceeded):
        accounts.open(ada, "m", 1, "more")
    clock.now += jump
    assert accounts.today(ada).pictures == 1
    await closed(accounts)
    assert sorted(on_disk(path).values()) == [(1, 0), (2, 0)]


async def test_days_that_are_over_are_forgotten_and_read_again(path: Path, clock: Clock) -> None:
    accounts, ada = kept(path, clock), payer(pictures=1)
    await accounts.start()
    for _ in range(20):
        charge = accounts.open(ada, "m", 1, "one")
        charge.delivered(1)
        charge.close()
        clock.now += DAY_S
        await accounts.write()
    assert len(accounts._days) <= 5
    clock.now = NOON
    accounts.today(ada)
    await accounts.write()  # what the task does a second later
    assert accounts.today(ada).used.pictures == 1
    await closed(accounts)


async def test_a_database_that_fails_is_said_once_and_written_when_it_can_be(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WRITE_S", 0.01)
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    before = kept(path, clock)
    before.book(payer(), "m", pictures=1)
    await closed(before)
    put_away(path)
    accounts, ada = kept(path, clock), payer(pictures=3)
    with caplog.at_level("INFO", "darkroom.jobs"):
        await accounts.start()
        assert accounts.problem == "it cannot be opened: Is a directory"
        for number in range(3):
            charge = accounts.open(ada, "m", 1, f"job-{number}")
            charge.delivered(1)
            charge.close()
            await asyncio.sleep(0.03)
        with pytest.raises(QuotaExceeded):  # it counts all the same
            accounts.open(ada, "m", 1, "more")
        rows, is_all = await accounts.between(TODAY, TODAY, None, 10)
        assert (rows[Place(TODAY, "ada-id", "m")].spent.pictures, is_all) == (3, False)
        put_back(path)
        for _ in range(300):
            await asyncio.sleep(0.01)
            if not accounts.problem:
                break
    said = [record.message for record in caplog.records]
    assert said == ["usage is kept in memory: the database cannot be used", "usage is written again"]
    assert accounts.today(ada).used.pictures == 4, "and what was there before counts again"
    await closed(accounts)
    assert on_disk(path) == {(TODAY, "ada"): (4, 0)}


async def test_a_full_disk_loses_nothing_and_counts_nothing_twice(path: Path, clock: Clock) -> None:
    accounts = kept(path, clock)
    await accounts.start()
    database = accounts._database
    assert database is not None
    fails = [True, True, False]

    def write(connection: sqlite3.Connection) -> None:
        if fails.pop(0):
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
            connection.execute("CREATE TABLE filler (content TEXT)")
            connection.executemany("INSERT INTO filler VALUES (?)", [("x" * 4000,)] * 10)

    real = module._exchange

    def exchange(connection: sqlite3.Connection, rows: object, days: object) -> object:
        result = real(connection, rows, days)  # type: ignore[arg-type]
        write(connection)  # what was written before it is undone
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_exchange", exchange)
        accounts.book(payer(), "m", pictures=2)
        assert not await accounts.write()
        assert accounts.problem == "the disk is full"
        accounts.book(payer(), "m", pictures=1)
        assert not await accounts.write()
        assert await accounts.write()
    assert accounts.today(payer()).used.pictures == 3
    await closed(accounts)
    assert on_disk(path) == {(TODAY, "ada"): (3, 0)}


async def test_what_is_kept_while_the_database_fails_is_bounded(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MAX_UNWRITTEN", 10)
    accounts = kept(None, clock)
    for number in range(30):
        accounts.book(payer(), f"model-{number:02}", pictures=1)
    assert accounts.unwritten == 10
    assert [record.message for record in caplog.records] == ["usage is lost: too much of it waits to be written"]
    assert accounts.today(payer()).used.pictures == 30, "quotas count it all the same"


async def test_two_processes_add_to_the_same_rows(path: Path, clock: Clock) -> None:
    one, two = kept(path, clock), kept(path, clock)
    await one.start()
    await two.start()
    one.book(payer(), "m", pictures=1)
    two.book(payer(), "m", pictures=2)
    await closed(one)
    await closed(two)
    assert on_disk(path) == {(TODAY, "ada"): (3, 0)}


async def test_rows_of_the_days_asked_for_and_of_one_key(path: Path, clock: Clock) -> None:
    accounts, ada, bob = kept(path, clock), payer(), payer(name="bob")
    await accounts.start()
    for day in range(4):
        accounts.book(ada, "m", pictures=day + 1)
        accounts.book(bob, "m", device_s=1.0)
        clock.now += DAY_S
        if day < 3:
            await accounts.write()  # the last is in memory alone
    rows, is_all = await accounts.between(TOMORROW, "2024-10-07", None, 100)
    assert is_all
    assert [(place.day, row.name) for place, row in rows.items()] == [
        (day, name) for day in (TOMORROW, "2024-10-06", "2024-10-07") for name in ("ada", "bob")
    ]
    mine, _ = await accounts.between(TODAY, "2024-10-08", "ada-id", 100)
    assert [row.spent.pictures for row in mine.values()] == [1, 2, 3, 4]
    await closed(accounts)


async def test_jobs_that_ended_long_ago_are_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LATE", 3)
    accounts = kept(None, clock)
    for number in range(20):
        accounts.open(payer(), "m", 1, f"job-{number}").close()
    assert len(accounts._jobs) <= 5
    accounts.spent("job-0", 1, 1.0)
    assert accounts.unwritten == 0
