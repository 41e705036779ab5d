"""Async jobs and the keys that asked for them: what is set aside meanwhile, and who is shown what."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.edge.keys import Keyring
from server.jobs import feeder, registry
from server.jobs.limits import Limits
from server.storage.database import FILE_NAME
from server.webhooks.secrets import WebhookSecrets
from tests.assertions import assert_api_error
from tests.http.test_accounts import BODY, USAGE, Keyed, limited
from tests.paper import Paper, PaperServers
from tests.receiver import receiving
from tests.running import eventually

JOBS = "/v1/images/jobs"
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


def test_what_a_key_has_asked_for_when_it_expires_is_drawn_and_told_of(
    paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "LOOK_EVERY_S", 0.1)
    with receiving(200) as receiver:
        paper = paper_servers.open(keys=True, queue_size=1, webhooks=receiver.host)
        folder = paper.app.state.services.settings.data_dir
        ring = Keyring(folder / "keys.json")
        soon = datetime.now(UTC) + timedelta(seconds=3)
        brief = ring.create("brief", but=limited(expires=soon.isoformat()))
        WebhookSecrets(folder).make(ring.list()[-1].principal.id)
        paper.worker.gate.clear()
        assert paper.post(BODY, headers=ASYNC).status_code == 202
        eventually(lambda: paper.worker.drawings)
        with paper.client(headers={"authorization": f"Bearer {brief}"}) as client:
            eventually(lambda: client.get(USAGE).status_code == 200)
            asked = client.post("/v1/images/generations", json={**BODY, "webhook": receiver.url}, headers=ASYNC)
            assert asked.status_code == 202, asked.text
            eventually(lambda: client.get(USAGE).status_code == 401)
        time.sleep(0.3)  # it is looked round meanwhile
        paper.worker.gate.set()
        ended = [("done", "none"), ("done", "delivered")]
        eventually(lambda: rows(paper, "SELECT state, telling FROM async_jobs ORDER BY rowid") == ended, within_s=20)
        assert json.loads(receiver.sent[-1].body)["data"]["id"] == asked.json()["id"]


def test_an_admin_sees_async_jobs_that_have_ended(paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch) -> None:
    """They had neither result_state nor webhook, and were gone after ten minutes, its own too."""
    keyed = Keyed(paper_servers, ada=Limits())
    adas, own = ask(keyed, "ada")["id"], ask(keyed, "root")["id"]
    eventually(lambda: rows(keyed.paper, "SELECT state FROM async_jobs") == [("done",), ("done",)])
    for kept_s in (registry.KEEP_S, 0.0):
        monkeypatch.setattr(registry, "KEEP_S", kept_s)
        listed = keyed.get("root", JOBS, all=True).json()["data"]
        assert [(row["id"], row["key"], row["result_state"], row["webhook"]) for row in listed] == [
            (adas, "ada", "ready", None),
            (own, "root", "ready", None),
        ]
        for row in listed:
            assert keyed.get("root", f"{JOBS}/{row['id']}", all=True).json() == row
        assert_api_error(keyed.get("root", f"{JOBS}/{adas}"), 404, "not_found")
        assert_api_error(keyed.get("root", f"{JOBS}/nobodys-own", all=True), 404, "not_found")
    assert keyed.ring.revoke("ada")
    eventually(lambda: keyed.get("root", f"{JOBS}/{adas}", all=True).json()["key"] != "ada")
