"""Async jobs outlive their server: killed, or stopped in good order. Its worker draws blank paper."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.edge.keys import Keyring
from server.storage.database import FILE_NAME
from server.webhooks.secrets import WebhookSecrets
from tests.receiver import receiving
from tests.running import Running, eventually, start

ASYNC = {"prefer": "respond-async"}
JOBS = "/v1/images/jobs"
LONG, SHORT = "paper:5 canary", "paper:0 canary"


@contextlib.contextmanager
def serving(data_dir: Path, key: str, **settings: Any) -> Iterator[Running]:
    """A server with one permit."""
    with start(data_dir, module="tests.reliability.paper_server", **{"queue_size": 1, **settings}) as running:
        running.key = key
        yield running


def ask(running: Running, prompt: str, *, key: str | None = None, **fields: Any) -> str:
    headers = {**ASYNC, "authorization": f"Bearer {key or running.key}"}
    with running.client(headers=headers) as client:
        answer = client.post("/v1/images/generations", json={"prompt": prompt, "n": 2, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def look(running: Running, job: str) -> Any:
    with running.client() as client:
        return client.get(f"{JOBS}/{job}").json()


def reaches(running: Running, job: str, *states: str) -> Any:
    return eventually(lambda: (row := look(running, job)).get("status") in states and row, within_s=40)


def stored(data_dir: Path, sql: str, *values: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(data_dir / FILE_NAME)) as connection:
        return connection.execute(sql, values).fetchall()


def seeds(data_dir: Path, job: str) -> list[int]:
    """Those that were decided when the job was admitted."""
    ((request,),) = stored(data_dir, "SELECT request FROM async_jobs WHERE name = ?", job)
    return list(msgspec.msgpack.decode(request)["seeds"])


def is_begun(data_dir: Path, job: str, times: int) -> bool:
    return stored(data_dir, "SELECT state, begun FROM async_jobs WHERE name = ?", job) == [("begun", times)]


@pytest.fixture
def keys(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys.json")


def test_killed_and_killed_again(tmp_path: Path, keys: Keyring) -> None:
    """What waited is drawn, what had begun is drawn once more, then it is lost; a revoked key's is dropped."""
    mine, other = keys.create("mine"), keys.create("other")
    with serving(tmp_path, mine) as running:
        begun = ask(running, LONG)
        waiting, dropped = ask(running, SHORT), ask(running, SHORT, key=other)
        decided = seeds(tmp_path, waiting)
        eventually(lambda: is_begun(tmp_path, begun, 1))
        running.process.kill()
        running.process.wait()
    assert keys.revoke("other")
    with serving(tmp_path, mine) as running:
        eventually(lambda: is_begun(tmp_path, begun, 2))
        assert look(running, waiting)["status"] == "queued"
        running.process.kill()
        running.process.wait()
    with serving(tmp_path, mine) as running:
        lost = reaches(running, begun, "failed", "done")
        assert (lost["status"], lost["error"]["code"], lost["result_state"]) == ("failed", "job_lost", "none")
        row = reaches(running, waiting, "done", "failed")
        assert [item["seed"] for item in row["result"]["data"]] == decided
        with running.client() as client:
            for item in row["result"]["data"]:
                assert client.get(item["url"]).content.startswith(b"\x89PNG")
        eventually(lambda: stored(tmp_path, "SELECT count(*) FROM async_jobs WHERE name = ?", dropped) == [(0,)])
        assert "canary" not in running.log
        assert mine not in running.log
        assert running.stop() == 0
    for path in tmp_path.glob(f"{FILE_NAME}*"):
        assert b"canary" not in path.read_bytes(), path.name


def test_begun_once_and_killed_is_drawn_with_the_same_seeds_and_told_of(tmp_path: Path, keys: Keyring) -> None:
    mine = keys.create("mine")
    WebhookSecrets(tmp_path).make(keys.list()[0].principal.id)
    with receiving(500, 200) as receiver:
        with serving(tmp_path, mine, webhooks=receiver.host) as running:
            job = ask(running, LONG, webhook=receiver.url)
            decided = seeds(tmp_path, job)
            eventually(lambda: is_begun(tmp_path, job, 1))
            running.process.kill()
            running.process.wait()
        with serving(tmp_path, mine, webhooks=receiver.host) as running:
            row = reaches(running, job, "done", "failed")
            assert [item["seed"] for item in row["result"]["data"]] == decided
            eventually(lambda: look(running, job)["webhook"]["attempts"] == 1)
            running.process.kill()  # before it is told again
            running.process.wait()
        with serving(tmp_path, mine, webhooks=receiver.host) as running:
            eventually(lambda: look(running, job)["webhook"]["state"] == "delivered")
            kept = look(running, job)
            assert (kept["status"], kept["result"], kept["n"]) == ("done", row["result"] | kept["result"], 2)
    assert len({sent.headers["webhook-id"] for sent in receiver.sent}) == 1
    assert json.loads(receiver.sent[-1].body)["data"]["id"] == job


def test_stopped_in_good_order_nothing_is_lost(tmp_path: Path, keys: Keyring) -> None:
    mine = keys.create("mine")
    with serving(tmp_path, mine, drain_timeout_s=20) as running:
        drawn, waiting = ask(running, "paper:2"), ask(running, SHORT)
        eventually(lambda: is_begun(tmp_path, drawn, 1))
        assert running.stop() == 0
    states = stored(tmp_path, "SELECT name, state, begun FROM async_jobs ORDER BY rowid")
    assert states == [(drawn, "done", 1), (waiting, "waiting", 0)]
    with serving(tmp_path, mine, drain_timeout_s=1) as running:
        assert reaches(running, waiting, "done")["result_state"] == "ready"
        assert look(running, drawn)["result"]["data"]
        cut_off = ask(running, LONG)
        eventually(lambda: is_begun(tmp_path, cut_off, 1))
        assert running.stop() == 0
    # It was cut off by no fault of its own: it has not begun.
    assert stored(tmp_path, "SELECT state, begun FROM async_jobs WHERE name = ?", cut_off) == [("waiting", 0)]


def test_one_server_at_a_time_works_off_a_folder(tmp_path: Path, keys: Keyring) -> None:
    mine = keys.create("mine")
    with serving(tmp_path, mine) as first:
        job = ask(first, LONG)
        with serving(tmp_path, mine) as second:
            with second.client() as client:
                body = {"prompt": "x"}
                refused = client.post("/v1/images/generations", json=body, headers=ASYNC)
                assert (refused.status_code, refused.json()["error"]["code"]) == (507, "job_not_kept")
                assert client.post("/v1/images/generations", json=body).status_code == 200
            eventually(lambda: look(second, job)["status"] in ("running", "done"))  # the row is in the folder
            assert first.stop() == 0
            assert look(second, job)["result_state"] == "ready"
            eventually(lambda: ask_if(second), within_s=10)


def ask_if(running: Running) -> bool:
    with running.client() as client:
        return client.post("/v1/images/generations", json={"prompt": "x"}, headers=ASYNC).status_code == 202
