"""The jobs that were asked for with ``Prefer: respond-async``: their rows, requests, sources, results and webhooks.

Knows two tables of ``darkroom.db``; what is in a request and in a result is its caller's. A row is there from the 202
until some time after its result has expired. The request and the sources, which have the prompt, are deleted with the
job's end.

    waiting ──▶ begun ──▶ done, failed, cancelled
        ◀─────────┘ lost with its process
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from server.storage.database import Database, Schema

SCHEMA: Final = Schema(
    "async_jobs",
    (
        (
            """CREATE TABLE async_jobs (
                key TEXT PRIMARY KEY,
                principal TEXT NOT NULL,
                name TEXT NOT NULL,
                model TEXT NOT NULL,
                n INTEGER NOT NULL,
                created INTEGER NOT NULL,
                fingerprint BLOB NOT NULL,
                idempotency_key TEXT NOT NULL,
                state TEXT NOT NULL,
                begun INTEGER NOT NULL DEFAULT 0,
                request BLOB,
                size INTEGER NOT NULL,
                ended INTEGER,
                expires INTEGER,
                forget INTEGER,
                steps_done INTEGER NOT NULL DEFAULT 0,
                steps_of INTEGER NOT NULL DEFAULT 0,
                error TEXT,
                result BLOB,
                webhook TEXT,
                endpoint TEXT NOT NULL DEFAULT '',
                telling TEXT NOT NULL DEFAULT 'none',
                attempts INTEGER NOT NULL DEFAULT 0,
                due REAL,
                answered INTEGER
            )""",
            """CREATE TABLE async_sources (
                key TEXT NOT NULL REFERENCES async_jobs (key) ON DELETE CASCADE,
                place INTEGER NOT NULL,
                is_mask INTEGER NOT NULL,
                data BLOB NOT NULL,
                PRIMARY KEY (key, place)
            )""",
            # A failed or cancelled job gives its names back, as in server.jobs.registry.
            """CREATE UNIQUE INDEX async_jobs_by_name ON async_jobs (principal, name)
                WHERE state IN ('waiting', 'begun', 'done')""",
            """CREATE UNIQUE INDEX async_jobs_by_idempotency_key ON async_jobs (principal, idempotency_key)
                WHERE idempotency_key != '' AND state IN ('waiting', 'begun', 'done')""",
            "CREATE INDEX async_jobs_of_principal ON async_jobs (principal, created)",
            "CREATE INDEX async_jobs_by_telling ON async_jobs (telling, due)",
        ),
        ("ALTER TABLE async_jobs ADD COLUMN megapixel_steps REAL NOT NULL DEFAULT 0",),
        (
            # Its names are free, though its webhook is still to be told, by its own.
            "ALTER TABLE async_jobs ADD COLUMN freed INTEGER NOT NULL DEFAULT 0",
            "DROP INDEX async_jobs_by_name",
            "DROP INDEX async_jobs_by_idempotency_key",
            """CREATE UNIQUE INDEX async_jobs_by_name ON async_jobs (principal, name)
                WHERE state IN ('waiting', 'begun', 'done') AND freed = 0""",
            """CREATE UNIQUE INDEX async_jobs_by_idempotency_key ON async_jobs (principal, idempotency_key)
                WHERE idempotency_key != '' AND state IN ('waiting', 'begun', 'done') AND freed = 0""",
        ),
    ),
)
MAX_LISTED: Final = 1000  # rows


class RowState(StrEnum):
    """What is on the disk of a job's state."""

    WAITING = "waiting"
    BEGUN = "begun"  # its drawing has begun, or had when the process ended
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (RowState.WAITING, RowState.BEGUN)


class Telling(StrEnum):
    """How far a webhook is."""

    NONE = "none"  # none was asked for
    WAITING = "waiting"  # for the job's end
    DUE = "due"
    DELIVERED = "delivered"
    FAILED = "failed"  # given up


class AsyncJobRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row, without its request and its sources."""

    key: str  # unique in this data folder
    principal: str  # the id of whose key it is
    name: str  # the job's id as its client knows it
    model: str  # the canonical ID in models.yaml
    n: int  # pictures
    created: int  # unix seconds
    fingerprint: bytes  # of everything that was asked for
    size: int  # bytes of the request and the sources
    megapixel_steps: float = 0.0  # that are set aside for it while it waits
    idempotency_key: str = ""
    state: RowState = RowState.WAITING
    begun: int = 0  # how often its drawing has begun
    ended: int | None = None  # unix seconds
    expires: int | None = None  # unix seconds, of the result
    forget: int | None = None  # unix seconds, of the row
    steps_done: int = 0
    steps_of: int = 0
    error: str | None = None  # JSON, as the job's row shows it
    result: bytes | None = None
    webhook: str | None = None  # URL, until it has been told or given up
    endpoint: str = ""  # host and port of the webhook
    telling: Telling = Telling.NONE
    attempts: int = 0  # at the webhook
    due: float | None = None  # unix seconds, of the next
    answered: int | None = None  # status of the last that was answered


class Source(NamedTuple):
    """One source picture's file, or a mask's."""

    data: bytes
    is_mask: bool = False


class NameTaken(Exception):
    """Another row has this name or this Idempotency-Key."""


_COLUMNS: Final = AsyncJobRow.__struct_fields__
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM async_jobs"  # noqa: S608 (ours alone)
_LIVE: Final = "state IN ('waiting', 'begun')"
_FOUND: Final = "state IN ('waiting', 'begun', 'done') AND freed = 0"
_EXPIRED: Final = (
    "principal = ? AND state = 'done' AND expires <= ?"
    " AND (name = ? OR (idempotency_key = ? AND idempotency_key != ''))"
)


class AsyncJobs:
    """The tables. Every method raises DatabaseFailed where the file cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: AsyncJobRow, request: bytes, sources: Sequence[Source], *, now: int) -> None:
        """Keep a job. Raises NameTaken; a result that has expired gives its names free."""

        def work(connection: sqlite3.Connection) -> None:
            names = (row.principal, now, row.name, row.idempotency_key)
            connection.execute(f"DELETE FROM async_jobs WHERE {_EXPIRED} AND telling != 'due'", names)  # noqa: S608
            connection.execute(f"UPDATE async_jobs SET freed = 1 WHERE {_EXPIRED}", names)  # noqa: S608
            values = {**msgspec.structs.asdict(row), "request": request}
            marks = ", ".join(f":{name}" for name in values)
            try:
                connection.execute(f"INSERT INTO async_jobs ({', '.join(values)}) VALUES ({marks})", values)  # noqa: S608
            except sqlite3.IntegrityError:
                raise NameTaken from None
            connection.executemany(
                "INSERT INTO async_sources VALUES (?, ?, ?, ?)",
                [(row.key, place, source.is_mask, source.data) for place, source in enumerate(sources)],
            )

        await self._database.write(work)

    async def find(self, principal: str, name: str) -> AsyncJobRow | None:
        """The newest job of this name."""
        return await self._one("WHERE principal = ? AND name = ? ORDER BY created DESC, rowid DESC", principal, name)

    async def repeated(
        self, principal: str, *, idempotency_key: str, name: str, fingerprint: bytes, equal: bool, now: int
    ) -> AsyncJobRow | None:
        """The job that a request repeats or is at odds with: of the same Idempotency-Key or name, as long as it goes
        on or its result is there; where ``equal`` will do, one that goes on and was asked for alike."""
        by_key = f"WHERE principal = ? AND idempotency_key = ? AND {_FOUND} AND (expires IS NULL OR expires > ?)"
        by_name = f"WHERE principal = ? AND name = ? AND {_FOUND} AND (expires IS NULL OR expires > ?)"
        found = None
        if idempotency_key:
            found = await self._one(by_key, principal, idempotency_key, now)
        if found is None and name:
            found = await self._one(by_name, principal, name, now)
        if found is None and equal and not idempotency_key and not name:
            found = await self._one(f"WHERE principal = ? AND fingerprint = ? AND {_LIVE}", principal, fingerprint)
        return found

    async def newest(self, name: str) -> AsyncJobRow | None:
        """The newest job of this name, whoever's it is."""
        return await self._one("WHERE name = ? ORDER BY created DESC, rowid DESC", name)

    async def ended(self, principal: str | None) -> list[AsyncJobRow]:
        """The jobs of this principal, or of all, that have ended, oldest first; the newest of very many."""
        whose, values = ("", ()) if principal is None else ("principal = ? AND", (principal,))

        def work(connection: sqlite3.Connection) -> list[AsyncJobRow]:
            rows = connection.execute(
                f"{_SELECT} WHERE {whose} NOT {_LIVE} ORDER BY created DESC, rowid DESC LIMIT ?",
                (*values, MAX_LISTED),
            )
            return [_row(found) for found in rows][::-1]

        return await self._database.read(work)

    async def unfinished(self) -> list[AsyncJobRow]:
        """All that have not ended, oldest first."""

        def work(connection: sqlite3.Connection) -> list[AsyncJobRow]:
            return [_row(values) for values in connection.execute(f"{_SELECT} WHERE {_LIVE} ORDER BY created, rowid")]

        return await self._database.read(work)

    async def load(self, key: str) -> tuple[bytes, list[Source]] | None:
        """The request and the sources of a job that has not ended; None where there is none."""

        def work(connection: sqlite3.Connection) -> tuple[bytes, list[Source]] | None:
            found = connection.execute("SELECT request FROM async_jobs WHERE key = ?", (key,)).fetchone()
            if found is None or found[0] is None:
                return None
            sources = connection.execute(
                "SELECT data, is_mask FROM async_sources WHERE key = ? ORDER BY place", (key,)
            ).fetchall()
            return found[0], [Source(data, bool(is_mask)) for data, is_mask in sources]

        return await self._database.read(work)

    async def update(self, row: AsyncJobRow) -> None:
        """Write the row as it is now; of one that has ended, delete the request and the sources."""

        def work(connection: sqlite3.Connection) -> None:
            values = msgspec.structs.asdict(row)
            names = [name for name in values if name != "key"]
            settings = ", ".join(f"{name} = :{name}" for name in names)
            connection.execute(f"UPDATE async_jobs SET {settings} WHERE key = :key", values)  # noqa: S608
            if row.state.ended:
                connection.execute("UPDATE async_jobs SET request = NULL WHERE key = ?", (row.key,))
                connection.execute("DELETE FROM async_sources WHERE key = ?", (row.key,))

        await self._database.write(work)

    async def drop(self, key: str) -> None:
        """Delete a job with all that belongs to it."""
        await self._database.write(
            lambda connection: _done(connection.execute("DELETE FROM async_jobs WHERE key = ?", (key,)))
        )

    async def forget(self, now: int) -> int:
        """Delete the results that have expired, and the rows whose time is over; how many rows."""

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("UPDATE async_jobs SET result = NULL WHERE result IS NOT NULL AND expires <= ?", (now,))
            gone = connection.execute("DELETE FROM async_jobs WHERE forget <= ? AND telling != 'due'", (now,))
            return gone.rowcount

        return await self._database.write(work)

    async def tidy(self) -> None:
        """Have what was deleted leave the disk."""
        await self._database.tidy()

    async def due(self, now: float, *, per_endpoint: int, limit: int) -> list[AsyncJobRow]:
        """Whose webhooks are to be told now, the longest due first; so many of one principal's endpoint at most, so
        that none that never answers hides the others."""

        def work(connection: sqlite3.Connection) -> list[AsyncJobRow]:
            columns = ", ".join(_COLUMNS)
            rows = connection.execute(
                f"SELECT {columns} FROM (SELECT *, row_number() OVER (PARTITION BY principal, endpoint ORDER BY due)"  # noqa: S608
                " AS place FROM async_jobs WHERE telling = 'due' AND due <= ?) WHERE place <= ? ORDER BY due LIMIT ?",
                (now, per_endpoint, limit),
            )
            return [_row(values) for values in rows]

        return await self._database.read(work)

    async def next_due(self) -> float | None:
        """When the next webhook is to be told, unix seconds; None: none is."""
        return await self._database.read(
            lambda connection: connection.execute("SELECT min(due) FROM async_jobs WHERE telling = 'due'").fetchone()[0]
        )

    async def told(self, key: str, *, telling: Telling, attempts: int, due: float | None, answered: int | None) -> None:
        """What became of an attempt at a webhook. Its URL is deleted where that was the last."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE async_jobs SET telling = ?, attempts = ?, due = ?, answered = ?,"
                " webhook = CASE WHEN ? = 'due' THEN webhook END WHERE key = ?",
                (telling, attempts, due, answered, telling, key),
            )

        await self._database.write(work)

    async def _one(self, where: str, *values: object) -> AsyncJobRow | None:
        def work(connection: sqlite3.Connection) -> AsyncJobRow | None:
            found = connection.execute(f"{_SELECT} {where} LIMIT 1", values).fetchone()
            return None if found is None else _row(found)

        return await self._database.read(work)


def _row(values: Sequence[object]) -> AsyncJobRow:
    return msgspec.convert(dict(zip(_COLUMNS, values, strict=True)), AsyncJobRow)


def _done(cursor: sqlite3.Cursor) -> None:
    cursor.close()
