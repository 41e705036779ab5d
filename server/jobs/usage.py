"""What was used, as it stands on the disk: a row for each day, key and model.

Knows the table and sums; knows neither quotas nor jobs. A day is one of UTC, as YYYY-MM-DD. Rows are only ever added
to, so that several processes may write the same ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from server.storage.database import Schema

SCHEMA = Schema(
    "usage",
    (
        (
            "CREATE TABLE usage ("
            "day TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, model TEXT NOT NULL,"
            " pictures INTEGER NOT NULL, megapixel_steps REAL NOT NULL, device_s REAL NOT NULL,"
            " PRIMARY KEY (day, key, model)) WITHOUT ROWID",
        ),
    ),
)


class Place(NamedTuple):
    """Where something is booked."""

    day: str
    key: str  # its id
    model: str  # the canonical ID in models.yaml


@dataclass
class Spending:
    """How much was used."""

    pictures: int = 0  # that were delivered
    megapixel_steps: float = 0.0  # drawn width × height × steps computed × pictures / 1,000,000
    device_s: float = 0.0  # of forwards: a step's time × its share of the rows

    def add(self, other: Spending) -> None:
        self.pictures += other.pictures
        self.megapixel_steps += other.megapixel_steps
        self.device_s += other.device_s


@dataclass
class Row:
    """What was used at one place, and the name that its key had last."""

    name: str
    spent: Spending


def add(connection: sqlite3.Connection, rows: Mapping[Place, Row]) -> None:
    """Add to what stands there."""
    connection.executemany(
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, key, model) DO UPDATE SET"
        " name = excluded.name, pictures = pictures + excluded.pictures,"
        " megapixel_steps = megapixel_steps + excluded.megapixel_steps, device_s = device_s + excluded.device_s",
        [(place.day, place.key, row.name, place.model, *_values(row.spent)) for place, row in rows.items()],
    )


def _values(spent: Spending) -> tuple[int, float, float]:
    return spent.pictures, spent.megapixel_steps, spent.device_s


def of_day(connection: sqlite3.Connection, day: str) -> dict[str, Spending]:
    """What each key used on that day, of all models."""
    rows = connection.execute(
        "SELECT key, sum(pictures), sum(megapixel_steps), sum(device_s) FROM usage WHERE day = ? GROUP BY key", (day,)
    )
    return {key: Spending(*values) for key, *values in rows}


def between(connection: sqlite3.Connection, since: str, until: str, key: str | None, most: int) -> dict[Place, Row]:
    """What was used from one day to another, both included: by one key, or by all. At most ``most`` rows."""
    rows = connection.execute(
        "SELECT day, key, model, name, pictures, megapixel_steps, device_s FROM usage"
        " WHERE day BETWEEN ? AND ? AND (? IS NULL OR key = ?) ORDER BY day, name, model LIMIT ?",
        (since, until, key, key, most),
    )
    return {Place(day, key_id, model): Row(name, Spending(*values)) for day, key_id, model, name, *values in rows}
