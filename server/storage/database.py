"""The one SQLite file of a data folder, ``darkroom.db``: small facts that outlive the process.

Knows connections, transactions, schemas and what can go wrong with a disk; knows no table of any feature. Each feature
owns its tables, and says in a ``Schema`` how they came about; two features never touch each other's.

One thread of its own has the connection, so that the event loop never waits for a disk. The file is opened at the first
transaction, and again after one that failed: a disk that has room again, or a file that was put in place of a broken
one, serves without a restart. Several processes may have the same file open (a server and a command, two servers): what
is written must then be right whatever the others write, as ``SET n = n + ?`` is. Statements keep to what SQLite 3.34
knows (no STRICT, no RETURNING), which is what Python links with on some systems.

What is committed outlives a power cut (``synchronous=FULL``): an answer may have been given on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from server.errors import ConfigError

FILE_NAME: Final = "darkroom.db"
LAYOUT: Final = 1  # of the table of schemas itself: PRAGMA user_version
_BUSY_S = 5.0  # for another process's transaction to end
_READ, _WRITE = "BEGIN", "BEGIN IMMEDIATE"
_WAL_BYTES = 16 << 20  # what stays of the log after a large transaction

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it cannot be written",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "it may not be opened",
    sqlite3.SQLITE_CORRUPT: "its content is damaged",
    sqlite3.SQLITE_NOTADB: "it is no SQLite file",
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked",
    sqlite3.SQLITE_IOERR: "the disk has failed",
    sqlite3.SQLITE_PROTOCOL: "another process keeps it locked",
}

T = TypeVar("T")


class DatabaseFailed(Exception):
    """Nothing was read, or nothing was written: a disk that is full, read-only or gone, a damaged file, a lock that
    stays. ``reason`` says which in words for the operator; it has neither paths nor values."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NewerSchema(DatabaseFailed):
    """A later Darkroom has written the file."""


@dataclass(frozen=True)
class Schema:
    """The tables of one feature. ``migrations[n]`` are the statements that lead from version n to n + 1.

    Append to them; never change one that was released.
    """

    feature: str
    migrations: tuple[tuple[str, ...], ...]


class Database:
    """The file, for as many features as share it. ``read`` and ``write`` may be called from the event loop's thread,
    ``prepare`` before there is one."""

    def __init__(self, path: Path, schemas: Iterable[Schema]) -> None:
        """Opens nothing."""
        self.path = path
        self._schemas = tuple(schemas)
        self._connection: sqlite3.Connection | None = None  # of the thread's alone
        self._inode = (0, 0)  # device and number of the file that it has open
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    def prepare(self) -> None:
        """Make the file or bring its tables up to date, and leave it closed. Blocks for a few milliseconds.

        Raises ConfigError for a file of a later version, DatabaseFailed where it cannot be used (a server then serves
        without it).
        """
        try:
            with _failures():
                self._open().close()
        except NewerSchema as error:
            raise ConfigError(
                f"{self.path}: {error.reason}; serve with that version, or move the file away (usage and waiting jobs"
                " are in it)"
            ) from None

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` makes of one state of the file, on the database's thread. Raises DatabaseFailed."""
        return await self._run(_READ, work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in one transaction, on the database's thread: all of it is on the disk when this returns, or
        none. Raises DatabaseFailed, and what ``work`` raises (IntegrityError too).

        A caller that is cancelled meanwhile does not know which.
        """
        return await self._run(_WRITE, work)

    async def tidy(self) -> None:
        """Take what was deleted out of the log as well, and give free pages back; readers may put it off. Raises
        DatabaseFailed."""
        await self._run("", _tidy)

    async def close(self) -> None:
        """Finish what was begun, and close the file. Whatever comes later is DatabaseFailed."""
        self._closed = True
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._shrink)
            self._thread.shutdown()
            self._thread = None

    async def _run(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise DatabaseFailed("it is closed, as the server ends")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, begin, work)

    def _do(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with _failures():
                connection = self._current()
                with _transaction(connection, begin) if begin else contextlib.nullcontext():
                    return work(connection)
        except DatabaseFailed:
            self._drop()
            raise

    def _current(self) -> sqlite3.Connection:
        """The connection to the file that has our name now: whoever moved it away meant us to make another."""
        if self._connection is not None and self._inode != _inode_of(self.path):
            self._drop()
        if self._connection is None:
            self._connection = self._open()
            self._inode = _inode_of(self.path)
        return self._connection

    def _shrink(self) -> None:
        """Pages that nothing is in any more go back to the disk, and the file is closed."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                _tidy(self._connection)
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()  # the last one copies the log into the file

    def _open(self) -> sqlite3.Connection:
        """A connection to a file whose tables are up to date. Raises sqlite3.Error, OSError, NewerSchema."""
        _make_private(self.path)
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=True)
        try:
            if not connection.execute("PRAGMA page_count").fetchone()[0]:  # later it would be a write
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # what is deleted may be a prompt
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Every step in a transaction of its own, with the version that it leads to: a crash leaves the one before."""
        if self._is_current(connection):
            return  # nothing to write: a file that cannot be written can still be read
        with _transaction(connection):  # each reads inside: another process may be doing the same
            if _layout(connection) < LAYOUT:
                connection.execute("CREATE TABLE schema (feature TEXT PRIMARY KEY, version INTEGER NOT NULL)")
                connection.execute(f"PRAGMA user_version = {LAYOUT}")
        for schema in self._schemas:
            for version, statements in enumerate(schema.migrations):
                with _transaction(connection):
                    if _version(connection, schema.feature) != version:
                        continue
                    for statement in statements:
                        connection.execute(statement)
                    connection.execute(
                        "INSERT INTO schema VALUES (?, ?)"
                        " ON CONFLICT (feature) DO UPDATE SET version = excluded.version",
                        (schema.feature, version + 1),
                    )

    def _is_current(self, connection: sqlite3.Connection) -> bool:
        """Has it all our tables? Raises NewerSchema."""
        layout = _layout(connection)
        if layout > LAYOUT:
            raise NewerSchema(f"a later Darkroom wrote it (layout {layout}; this one knows {LAYOUT})")
        if layout < LAYOUT:
            return False
        current = True
        for schema in self._schemas:
            version, newest = _version(connection, schema.feature), len(schema.migrations)
            if version > newest:
                raise NewerSchema(
                    f"a later Darkroom wrote it ({schema.feature} has version {version}; this one knows {newest})"
                )
            current = current and version == newest
        return current


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, begin: str = _WRITE) -> Iterator[None]:
    """All or nothing of what is done inside."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have ended it already
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What a disk or a file is to blame for, as DatabaseFailed. A wrong statement or a broken constraint stays."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the kind, without what it adds to it
        if code not in _REASONS:
            raise
        raise DatabaseFailed(_REASONS[code]) from error
    except OSError as error:
        raise DatabaseFailed(f"it cannot be opened: {error.strerror}") from error


def _tidy(connection: sqlite3.Connection) -> None:
    connection.executescript("PRAGMA incremental_vacuum")  # execute would stop after one page
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _layout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _version(connection: sqlite3.Connection, feature: str) -> int:
    row = connection.execute("SELECT version FROM schema WHERE feature = ?", (feature,)).fetchone()
    return int(row[0]) if row is not None else 0


def _make_private(path: Path) -> None:
    """For its owner alone, and so the log beside it, which gets the file's mode. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            with contextlib.suppress(OSError):  # somebody else's, whom we may not correct
                os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _inode_of(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino
