"""The SQLite file: its tables come about step by step, and what a disk does is one exception."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from server.errors import ConfigError
from server.storage.database import Database, DatabaseFailed, Schema

T = TypeVar("T")

ONE = ("CREATE TABLE fruit (name TEXT PRIMARY KEY)",)
TWO = ("ALTER TABLE fruit ADD COLUMN colour TEXT", "UPDATE fruit SET colour = 'red'")
FRUIT_1, FRUIT_2 = Schema("fruit", (ONE,)), Schema("fruit", (ONE, TWO))
TOOLS = Schema("tools", (("CREATE TABLE tools (name TEXT)",),))


def add(connection: sqlite3.Connection, name: str = "apple") -> None:
    connection.execute("INSERT INTO fruit (name) VALUES (?)", (name,))


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM fruit ORDER BY name")]


def using(path: Path, use: Callable[[Database], Awaitable[T]], *schemas: Schema) -> T:
    async def body() -> T:
        database = Database(path, schemas or (FRUIT_1,))
        try:
            return await use(database)
        finally:
            await database.close()

    return asyncio.run(body())


def added(path: Path, name: str, *schemas: Schema) -> None:
    using(path, lambda database: database.write(lambda connection: add(connection, name)), *schemas)


def read(path: Path, *schemas: Schema) -> list[str]:
    return using(path, lambda database: database.read(names), *schemas)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "darkroom.db"


def test_what_was_written_is_read_by_the_next_process_and_by_its_owner_alone(path: Path) -> None:
    added(path, "apple")
    assert read(path) == ["apple"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["darkroom.db"]  # the log went into it


def test_the_log_beside_it_is_for_its_owner_too_and_a_wider_mode_is_corrected(path: Path) -> None:
    path.touch(0o644)
    path.chmod(0o644)

    async def modes(database: Database) -> set[int]:
        await database.write(add)
        return {stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}

    assert using(path, modes) == {0o600}


def test_features_bring_their_own_tables_each_at_its_own_time(path: Path) -> None:
    added(path, "apple", FRUIT_1)
    assert read(path, FRUIT_2, TOOLS) == ["apple"]
    with sqlite3.connect(path) as connection:
        assert dict(connection.execute("SELECT feature, version FROM schema")) == {"fruit": 2, "tools": 1}
        assert connection.execute("SELECT colour FROM fruit").fetchall() == [("red",)]
    connection.close()
    Database(path, (FRUIT_2,)).prepare()  # a feature that is left out keeps what it has
    Database(path, (FRUIT_2, TOOLS)).prepare()


def test_a_crash_in_the_midst_of_a_migration_leaves_the_version_before(path: Path) -> None:
    added(path, "apple", FRUIT_1)
    broken = Schema("fruit", (ONE, (*TWO[:1], "INSERT INTO nowhere VALUES (1)")))
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        Database(path, (broken,)).prepare()
    with sqlite3.connect(path) as connection:
        assert [row[1] for row in connection.execute("PRAGMA table_info(fruit)")] == ["name"]
        assert connection.execute("SELECT version FROM schema").fetchall() == [(1,)]
    connection.close()
    assert read(path, FRUIT_2) == ["apple"]  # and the mended one goes on from there


def test_two_processes_may_migrate_at_once(path: Path) -> None:
    added(path, "apple", FRUIT_1)
    problems: list[BaseException] = []

    def migrate() -> None:
        try:
            Database(path, (FRUIT_2, TOOLS)).prepare()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert read(path, FRUIT_2, TOOLS) == ["apple"]


def test_a_file_of_a_later_version_stops_the_server_at_the_door_and_stays(path: Path) -> None:
    added(path, "apple", FRUIT_2)
    with pytest.raises(ConfigError, match=r"darkroom\.db: a later Darkroom wrote it \(fruit has version 2.*move the"):
        Database(path, (FRUIT_1,)).prepare()
    with pytest.raises(DatabaseFailed, match="later Darkroom"):
        read(path, FRUIT_1)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(ConfigError, match="layout 2; this one knows 1"):
        Database(path, (FRUIT_2,)).prepare()


def test_a_damaged_file_is_said_and_one_put_in_its_place_serves(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough to be taken for one" * 20)
    with pytest.raises(DatabaseFailed, match="no SQLite file"):
        Database(path, (FRUIT_1,)).prepare()

    async def use(database: Database) -> list[str]:
        with pytest.raises(DatabaseFailed, match="no SQLite file"):
            await database.write(add)
        await asyncio.to_thread(path.unlink)
        await database.write(add)
        return await database.read(names)

    assert using(path, use) == ["apple"]


def test_pages_that_are_damaged_are_said(path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        for number in range(2000):
            add(connection, f"{number:0100}")

    using(path, lambda database: database.write(fill))
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(DatabaseFailed, match="damaged"):
        read(path)


def test_a_full_disk_loses_only_what_was_not_acknowledged_and_serves_again_with_room(path: Path) -> None:
    def bounded(connection: sqlite3.Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(1000):
            add(connection, f"{number:0100}")

    async def use(database: Database) -> list[str]:
        await database.write(add)
        with pytest.raises(DatabaseFailed, match="disk is full"):
            await database.write(bounded)
        await database.write(lambda connection: add(connection, "pear"))  # the limit went with its connection
        return await database.read(names)

    assert using(path, use) == ["apple", "pear"]


def test_a_file_that_cannot_be_written_can_be_read(path: Path) -> None:
    def refuse(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only = ON")  # what a folder without rights says, also to root
        add(connection, "pear")

    async def use(database: Database) -> list[str]:
        await database.write(add)
        with pytest.raises(DatabaseFailed, match="cannot be written"):
            await database.write(refuse)
        return await database.read(names)

    assert using(path, use) == ["apple"]


def test_a_folder_in_its_place_is_said(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DatabaseFailed, match="cannot be opened"):
        read(path)


def test_a_lock_that_stays_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.database._BUSY_S", 0.05)
    added(path, "apple")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseFailed, match="another process"):
        added(path, "pear")
    assert read(path) == ["apple"]  # readers do not wait for a writer
    other.execute("ROLLBACK")
    other.close()


def test_a_broken_constraint_is_the_callers_and_undoes_its_transaction_alone(path: Path) -> None:
    def twice(connection: sqlite3.Connection) -> None:
        add(connection, "pear")
        add(connection, "apple")

    async def use(database: Database) -> list[str]:
        await database.write(add)
        with pytest.raises(sqlite3.IntegrityError):
            await database.write(twice)
        return await database.read(names)

    assert using(path, use) == ["apple"]


def test_a_file_that_was_moved_away_while_it_was_open_is_made_again(path: Path) -> None:
    async def use(database: Database) -> list[str]:
        await database.write(add)
        await asyncio.to_thread(path.rename, path.with_name("old.db"))
        await database.write(lambda connection: add(connection, "pear"))
        return await database.read(names)

    assert using(path, use) == ["pear"]


def test_the_event_loop_does_not_wait_for_the_disk(path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> str:
        entered.set()
        assert leave.wait(10)
        return threading.current_thread().name

    async def use(database: Database) -> str:
        writing = asyncio.ensure_future(database.write(slow))
        await asyncio.to_thread(entered.wait, 10)
        leave.set()  # nobody would, if the loop waited
        return await writing

    assert using(path, use).startswith("database")


def test_a_closed_database_says_so_and_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())

    async def use(database: Database) -> None:
        await database.write(add)
        await database.close()
        with pytest.raises(DatabaseFailed, match="closed"):
            await database.read(names)

    using(path, use)
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("database") and thread not in before
    ]


def test_what_was_deleted_is_neither_on_the_disk_nor_takes_room_there(path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        for number in range(2000):
            add(connection, f"secret {number:0100}")

    using(path, lambda database: database.write(fill))
    before = path.stat().st_size
    using(path, lambda database: database.write(lambda connection: connection.execute("DELETE FROM fruit").rowcount))
    assert path.stat().st_size < before / 10
    assert b"secret" not in path.read_bytes()
