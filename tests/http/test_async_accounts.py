"""Async jobs and the keys that asked for them: what is set aside meanwhile, and who is shown what."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from server.jobs.limits import Limits
from server.storage.database import FILE_NAME
from tests.http.test_accounts import Keyed
from tests.paper import Paper, PaperServers

ASYNC = {"prefer": "respond-async"}


def rows(paper: Paper, sql: str) -> list[Any]:
    path = paper.app.state.services.settings.data_dir / FILE_NAME
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def ask(keyed: Keyed, name: str, **fields: Any) -> Any:
    """The row that the 202 carries."""
    answer = keyed.draw(name, ASYNC, **fields)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_what_is_set_aside_is_kept_with_the_job(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(megapixel_steps_per_day=1000))
    keyed.paper.worker.gate.clear()
    ask(keyed, "ada", n=2)
    quotas = keyed.get("ada").json()["quotas"]["megapixel_steps"]
    ((kept,),) = rows(keyed.paper, "SELECT megapixel_steps FROM async_jobs")
    assert kept > 0
    assert quotas["used"] + quotas["set_aside"] == pytest.approx(kept, abs=0.002)
    keyed.paper.worker.gate.set()
