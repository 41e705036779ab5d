"""Adversities of the SQLite file: damaged, or locked by another process. Does everybody get a picture, and is all of it
counted in the end?

Knows the file's name and what ``/readyz`` says of it; the visitor knows answers.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator

from server.storage.database import FILE_NAME
from tests.reliability.asks import Ask
from tests.reliability.lives import House, tracebacks
from tests.reliability.visitor import Visitor

WRITTEN_S = 30.0  # for use to be written again, a try of 5 s for a lock included
KINDS = ("b64", "url", "mask")


def database(house: House, visitor: Visitor) -> None:
    """Pictures are made all along; use is kept in memory, and written when it can be."""
    file = house.data_dir / FILE_NAME
    file.write_bytes(b"no database" * 1000)
    with house.life() as running:
        _draw(visitor, "damaged")
        _require(visitor, "damaged", "in memory")
        file.unlink()
        _require(visitor, "moved away", "written")
        with _locked(house):
            _draw(visitor, "locked")
            _require(visitor, "locked", "in memory")
        _require(visitor, "free again", "written")
        visitor.healthy("in the end")
        counted = _usage(visitor)
        if counted != 2 * len(KINDS):
            visitor.note("in the end", f"{counted} pictures are counted of {2 * len(KINDS)}")
        visitor.faults += tracebacks(running)
        running.stop()
    with house.life():
        if (again := _usage(visitor)) != counted:
            visitor.note("after a restart", f"{again} pictures are counted of {counted}")


def _draw(visitor: Visitor, when: str) -> None:
    for kind in KINDS:
        visitor.draw(when, kind)


@contextlib.contextmanager
def _locked(house: House) -> Iterator[None]:
    """By somebody who copies it, or looks at it and forgets to leave."""
    other = sqlite3.connect(house.data_dir / FILE_NAME, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


def _require(visitor: Visitor, when: str, state: str) -> None:
    """``/readyz`` says so, in time."""
    deadline = time.monotonic() + WRITTEN_S
    said: object = None
    while time.monotonic() < deadline:
        answer = visitor.send(when, Ask("/readyz", "GET", "/readyz"))
        if answer is not None:
            said = json.loads(answer.body).get("usage")
            if isinstance(said, dict) and said["state"] == state:
                return
        time.sleep(0.25)
    visitor.note(when, f"usage is not {state!r} but {said}")


def _usage(visitor: Visitor) -> int:
    answer = visitor.send("usage", Ask("usage", "GET", "/v1/usage"))
    return -1 if answer is None or answer.status != 200 else int(json.loads(answer.body)["total"]["pictures"])
