"""The tables of async jobs: which names are taken, what is deleted when, and whose webhooks are due."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec.structs import asdict, replace

from server.storage.async_jobs import SCHEMA, AsyncJobRow, AsyncJobs, NameTaken, RowState, Source, Telling
from server.storage.database import FILE_NAME, Database, Schema

T = TypeVar("T")
NOW = 1_000_000


def row(key: str, **changes: Any) -> AsyncJobRow:
    fields = {"principal": "ada", "name": key, "model": "m", "n": 1, "created": NOW, "fingerprint": b"f", "size": 1}
    return AsyncJobRow(**{**fields, "key": key, **changes})


def using(path: Path, use: Callable[[AsyncJobs], Awaitable[T]]) -> T:
    async def body() -> T:
        database = Database(path / FILE_NAME, [SCHEMA])
        try:
            return await use(AsyncJobs(database))
        finally:
            await database.close()

    return asyncio.run(body())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_row_comes_back_as_it_was_and_its_sources_in_order(tmp_path: Path) -> None:
    kept = row("one", idempotency_key="key", webhook="http://a/", endpoint="a:80", telling=Telling.WAITING)
    sources = [Source(b"first"), Source(b"second"), Source(b"mask", is_mask=True)]
    using(tmp_path, lambda table: table.add(kept, b"request", sources, now=NOW))

    async def read(table: AsyncJobs) -> None:
        assert await table.find("ada", "one") == kept
        assert await table.find("bob", "one") is None
        assert await table.load("one") == (b"request", sources)
        assert await table.unfinished() == [kept]
        assert await table.ended("ada") == []

    using(tmp_path, read)


def test_names_are_taken_while_a_job_goes_on_or_its_result_is_there(tmp_path: Path) -> None:
    async def work(table: AsyncJobs) -> None:
        first = row("1", name="same", idempotency_key="key")
        await table.add(first, b"", [], now=NOW)
        for other in (row("2", name="same"), row("2", idempotency_key="key")):
            with pytest.raises(NameTaken):
                await table.add(other, b"", [], now=NOW)
        await table.add(row("3", name="same", principal="bob", idempotency_key="key"), b"", [], now=NOW)
        await table.update(replace(first, state=RowState.DONE, expires=NOW + 10))
        with pytest.raises(NameTaken):
            await table.add(row("4", name="same"), b"", [], now=NOW)
        await table.add(row("4", name="same"), b"", [], now=NOW + 10)  # its result has expired
        await table.update(replace(row("4", name="same"), state=RowState.FAILED))
        await table.add(row("5", name="same"), b"", [], now=NOW)
        found = await table.find("ada", "same")
        assert found is not None
        assert found.key == "5"

    using(tmp_path, work)


def test_a_result_that_has_expired_gives_its_names_free_before_its_webhook_is_told(tmp_path: Path) -> None:
    """A repeat of its Idempotency-Key was refused as a name in use."""

    async def work(table: AsyncJobs) -> None:
        first = row("1", name="same", idempotency_key="key", telling=Telling.WAITING)
        await table.add(first, b"", [], now=NOW)
        told = replace(first, state=RowState.DONE, expires=NOW + 10, telling=Telling.DUE, due=NOW)
        await table.update(told)
        for other in (row("2", name="same"), row("2", idempotency_key="key")):
            with pytest.raises(NameTaken):
                await table.add(other, b"", [], now=NOW + 9)
        second = row("2", name="same", idempotency_key="key")
        await table.add(second, b"", [], now=NOW + 10)
        assert await table.find("ada", "same") == second
        asked: dict[str, Any] = {"idempotency_key": "key", "name": "same", "fingerprint": b"f", "equal": False}
        assert await table.repeated("ada", **asked, now=NOW + 10) == second
        with pytest.raises(NameTaken):
            await table.add(row("3", idempotency_key="key"), b"", [], now=NOW + 10)
        assert await table.due(NOW + 10, per_endpoint=1, limit=1) == [told]  # by its own name

    using(tmp_path, work)


def test_the_end_deletes_what_the_job_needed_and_time_the_rest(tmp_path: Path) -> None:
    canary = b"canary" * 2000

    async def work(table: AsyncJobs) -> None:
        await table.add(row("1"), canary, [Source(canary)], now=NOW)
        ended = row("1", state=RowState.DONE, result=b"result", ended=NOW, expires=NOW + 10, forget=NOW + 20)
        await table.update(ended)
        assert await table.load("1") is None
        assert await table.forget(NOW + 9) == 0
        assert await table.ended("ada") == [ended]
        assert await table.forget(NOW + 10) == 0
        assert await table.ended("ada") == [replace(ended, result=None)]
        await table.tidy()
        assert [name for name, data in files(tmp_path).items() if b"canary" in data] == []
        assert files(tmp_path)[f"{FILE_NAME}-wal"] == b""
        assert await table.forget(NOW + 20) == 1
        assert await table.ended("ada") == []

    using(tmp_path, work)


def test_no_endpoint_hides_another_and_a_row_stays_until_it_is_told(tmp_path: Path) -> None:
    async def work(table: AsyncJobs) -> None:
        for number in range(20):
            busy = row(f"busy-{number:02}", state=RowState.DONE, telling=Telling.DUE, due=NOW + number, forget=NOW)
            await table.add(replace(busy, endpoint="busy", webhook="http://busy/"), b"", [], now=NOW)
        quiet = row("quiet", state=RowState.DONE, telling=Telling.DUE, due=NOW + 50, endpoint="quiet", forget=NOW)
        await table.add(quiet, b"", [], now=NOW)
        later = row("later", state=RowState.DONE, telling=Telling.DUE, due=NOW + 500, endpoint="quiet", forget=NOW)
        await table.add(later, b"", [], now=NOW)
        due = await table.due(NOW + 100, per_endpoint=2, limit=100)
        assert [each.key for each in due] == ["busy-00", "busy-01", "quiet"]
        assert await table.next_due() == NOW
        assert await table.forget(NOW) == 0
        await table.told("busy-00", telling=Telling.DELIVERED, attempts=1, due=None, answered=200)
        found = await table.find("ada", "busy-00")
        assert found is not None
        assert (found.telling, found.webhook, found.answered, found.attempts) == (Telling.DELIVERED, None, 200, 1)
        assert await table.forget(NOW) == 1

    using(tmp_path, work)


def test_rows_of_before_are_kept(tmp_path: Path) -> None:
    """Those of a file that has not every column yet."""
    before = Database(tmp_path / FILE_NAME, [Schema(SCHEMA.feature, SCHEMA.migrations[:1])])
    values = {**asdict(row("one")), "request": b"request"}
    del values["megapixel_steps"]

    async def keep() -> None:
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        await before.write(
            lambda connection: connection.execute(f"INSERT INTO async_jobs ({names}) VALUES ({marks})", values).close()
        )
        await before.close()

    asyncio.run(keep())
    assert using(tmp_path, lambda table: table.unfinished()) == [row("one")]
    assert using(tmp_path, lambda table: table.load("one")) == (b"request", [])
