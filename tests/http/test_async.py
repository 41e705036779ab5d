"""Ask now, fetch later: ``Prefer: respond-async`` on every route that makes pictures."""

from __future__ import annotations

import base64
import sqlite3
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from server.edge.keys import Keyring
from server.errors import OutOfDeviceMemory, StoreFull, WorkerLost
from server.jobs import feeder
from server.jobs.limits import Limits
from server.storage.database import FILE_NAME
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import png, scene, text
from tests.running import eventually

ASYNC = {"prefer": "respond-async"}
JOBS = "/v1/images/jobs"


def ask(paper: Paper, body: dict[str, Any] | None = None, path: str = "/v1/images/generations", **headers: str) -> Any:
    """A 202, as the row that it carries."""
    answer = paper.post({"prompt": "x", **(body or {})}, path, headers={**ASYNC, **headers})
    assert answer.status_code == 202, answer.text
    return answer.json()


def look(paper: Paper, job: str, prefix: str = "/v1") -> Any:
    with paper.client() as client:
        answer = client.get(f"{prefix}/images/jobs/{job}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def done(paper: Paper, job: str) -> Any:
    """The row once the job has ended."""
    return eventually(lambda: (row := look(paper, job))["status"] not in ("queued", "running") and row, within_s=20)


def rows(paper: Paper, sql: str) -> list[Any]:
    path = paper.app.state.services.settings.data_dir / FILE_NAME
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def fetched(url: str) -> bytes:
    with httpx.Client(trust_env=False) as client:
        answer = client.get(url)
    assert answer.status_code == 200
    return answer.content


def test_asked_now_and_fetched_later(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()
    answer = paper.post({"prompt": "a red apple", "n": 2}, headers={"prefer": "respond-async, wait=5"})
    assert answer.status_code == 202
    row = answer.json()
    assert answer.headers["location"] == f"{JOBS}/{row['id']}"
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["x-job-id"] == row["id"]
    assert row["status"] in ("queued", "running")
    assert (row["n"], row["result_state"], row["result_expires"], row["webhook"]) == (2, "pending", None, None)
    eventually(lambda: look(paper, row["id"])["status"] == "running")
    assert look(paper, row["id"])["result"] is None
    paper.worker.gate.set()
    ended = done(paper, row["id"])
    assert (ended["status"], ended["result_state"], ended["error"]) == ("done", "ready", None)
    assert abs(ended["result_expires"] - time.time() - 3600) < 30
    data = ended["result"]["data"]
    assert [item["seed"] for item in data] == list(paper.worker.drawings[0].seeds)
    for item in data:
        assert fetched(item["url"]).startswith(b"\x89PNG")
    with paper.client() as client:
        listed = client.get(JOBS).json()["data"]
    assert [each["id"] for each in listed] == [row["id"]]
    assert "result" not in listed[0]


def test_the_result_is_what_the_route_would_have_answered(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    hub = {"input": {"prompt": "x", "seed": 7}}
    for path, body in (
        ("/v1/images/generations", {"prompt": "x", "seed": 7, "response_format": "url"}),
        ("/v1/images/generations", {"prompt": "x", "seed": 7, "response_format": "b64_json"}),
        ("/api/images/generations", {"prompt": "x", "seed": 7}),
        ("/v1/images/edits", {"prompt": "x", "seed": 7, "image": text(png(scene(32, 32)))}),
        ("/api/v2/image", hub),
        ("/api/v2/image", {**hub, "outputFileType": "file"}),
        ("/api/v2/image/generations", {"prompt": "x", "seed": 7, "response_format": "b64_json"}),
    ):
        waited = paper.post(body, path)
        assert waited.status_code == 200, waited.text
        answer = paper.post(body, path, headers=ASYNC)
        assert answer.status_code == 202, answer.text
        result = done(paper, answer.json()["id"])["result"]
        assert _without_names(result) == _without_names(waited.json()), path


def _without_names(value: Any) -> Any:
    """Without what differs between two pictures of one seed: their names, and when they were made."""
    if isinstance(value, dict):
        return {k: "…" if k in ("url", "filename", "created") else _without_names(v) for k, v in value.items()}
    return [_without_names(item) for item in value] if isinstance(value, list) else value


def test_files_of_a_form_are_kept_until_the_end_and_no_longer(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(queue_size=1)
    paper.worker.gate.clear()
    source = png(scene(64, 64))
    with paper.client() as client:
        first = client.post(
            "/v1/images/edits", data={"prompt": "canary"}, files={"image": ("a.png", source)}, headers=ASYNC
        ).json()
        eventually(lambda: paper.worker.drawings)
        second = client.post("/v1/images/variations", files={"image": ("a.png", source)}, headers=ASYNC).json()
    assert rows(paper, "SELECT count(*) FROM async_sources") == [(2,)]
    assert rows(paper, "SELECT count(*) FROM async_jobs WHERE request IS NOT NULL") == [(2,)]
    paper.worker.gate.set()
    assert done(paper, first["id"])["status"] == done(paper, second["id"])["status"] == "done"
    assert [len(drawing.spec.sources) for drawing in paper.worker.drawings] == [1, 1]
    assert rows(paper, "SELECT count(*) FROM async_sources") == [(0,)]
    assert rows(paper, "SELECT count(*) FROM async_jobs WHERE request IS NOT NULL") == [(0,)]
    for value in [value for row in rows(paper, "SELECT * FROM async_jobs") for value in row]:
        assert "canary" not in str(value)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"n": 11}, 400, "invalid_value", "n"),
        ({"model": "no-such"}, 404, "model_not_found", "model"),
        ({"image": "not base64!"}, 400, "invalid_image", "image"),
        ({"init_image": text(b"no picture")}, 400, "invalid_image", "init_image"),
        ({"image": "http://127.0.0.1/a.png"}, 400, "invalid_image", "image"),
        ({"stream": True}, 400, "invalid_value", "stream"),
        ({"webhook": "https://example.com/hook"}, 400, "invalid_value", "webhook"),
    ],
)
def test_what_is_wrong_is_answered_at_once(
    paper: Paper, body: dict[str, Any], status: int, code: str, param: str
) -> None:
    answer = paper.post({"prompt": "x", **body}, headers=ASYNC)
    error = assert_api_error(answer, status, code)
    assert error["param"] == param
    assert not paper.worker.drawings


def test_refusals_name_what_excludes_each_other_and_the_setting(paper: Paper) -> None:
    error = assert_api_error(paper.post({"prompt": "x", "stream": True}, headers=ASYNC), 400, "invalid_value")
    assert "stream" in error["message"]
    assert "Prefer: respond-async" in error["message"]
    told = {"prompt": "x", "webhook": "https://example.com/hook"}
    assert "DARKROOM_WEBHOOKS" in assert_api_error(paper.post(told, headers=ASYNC), 400, "invalid_value")["message"]
    assert "Prefer: respond-async" in assert_api_error(paper.post(told), 400, "invalid_value")["message"]


def test_their_own_bound_and_a_share_of_the_permits(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(queue_size=4, async_jobs=5)
    paper.worker.gate.clear()
    asked = [ask(paper, {"seed": seed}) for seed in range(5)]
    refused = paper.post({"prompt": "x"}, headers=ASYNC)
    assert "async_jobs" in assert_api_error(refused, 429, "queue_full")["message"]
    assert int(refused.headers["retry-after"]) >= 1
    eventually(lambda: len(paper.worker.drawings) == 2)
    queue = paper.app.state.services.queue
    time.sleep(0.2)
    assert queue.held == 2  # of four: the others are for those who wait
    places = [look(paper, row["id"])["place"] for row in asked]
    assert places == [0, 0, 1, 2, 3]
    paper.worker.gate.set()
    assert paper.post({"prompt": "x"}).status_code == 200
    assert [done(paper, row["id"])["status"] for row in asked] == ["done"] * 5
    assert queue.held == 0


def test_the_deadline_runs_from_the_permit(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(queue_size=1, job_timeout_s=1.0)
    paper.worker.gate.clear()
    first, second = ask(paper, {"seed": 1}), ask(paper, {"seed": 2})
    ended = done(paper, first["id"])
    assert (ended["status"], ended["error"]["code"], ended["result_state"]) == ("failed", "deadline_exceeded", "none")
    paper.worker.gate.set()
    assert done(paper, second["id"])["status"] == "done"


def test_cancelled_in_every_state(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(queue_size=2)
    paper.worker.gate.clear()
    drawn, waiting = ask(paper, {"seed": 1}), ask(paper, {"seed": 2})
    eventually(lambda: paper.worker.drawings)
    with paper.client() as client:
        for row in (waiting, drawn):
            answer = client.delete(f"{JOBS}/{row['id']}").json()
            assert (answer["status"], answer["result_state"]) == ("cancelled", "none")
            assert look(paper, row["id"])["status"] == "cancelled"
        paper.worker.gate.set()
        finished = ask(paper, {"seed": 3})
        assert done(paper, finished["id"])["status"] == "done"
        assert client.delete(f"{JOBS}/{finished['id']}").json()["status"] == "done"
    assert len(paper.worker.drawings) == 2
    assert rows(paper, "SELECT count(*) FROM async_jobs WHERE request IS NOT NULL") == [(0,)]


def test_a_repeat_finds_the_job_and_another_request_does_not(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    key = {"idempotency-key": "mine"}
    first = ask(paper, {"prompt": "one"}, **key)
    assert ask(paper, {"prompt": "one"}, **key)["id"] == first["id"]
    assert done(paper, first["id"])["status"] == "done"
    assert ask(paper, {"prompt": "one"}, **key)["result_state"] == "ready"
    other = paper.post({"prompt": "two"}, headers={**ASYNC, **key})
    assert_api_error(other, 409, "idempotency_mismatch")
    named = ask(paper, {"prompt": "one"}, **{"x-job-id": "chosen-by-me"})
    assert named["id"] == "chosen-by-me"
    assert ask(paper, {"prompt": "one"}, **{"x-job-id": "chosen-by-me"})["id"] == "chosen-by-me"
    taken = paper.post({"prompt": "two"}, headers={**ASYNC, "x-job-id": "chosen-by-me"})
    assert_api_error(taken, 400, "invalid_value")
    assert ask(paper, {"prompt": "one"})["id"] != ask(paper, {"prompt": "one"})["id"]  # two pictures of one prompt
    eventually(lambda: len(paper.worker.drawings) == 4)


def test_what_was_lost_is_drawn_once_more_with_the_same_seeds(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()
    row = ask(paper, {"n": 2})
    eventually(lambda: paper.worker.drawings)
    paper.worker.failure = OutOfDeviceMemory("No room.")
    paper.worker.gate.set()
    eventually(lambda: look(paper, row["id"])["status"] == "queued")
    paper.worker.failure = None
    assert done(paper, row["id"])["status"] == "done"
    one, other = paper.worker.drawings
    assert one.seeds == other.seeds
    assert len(set(one.seeds)) == 2


def test_lost_twice_is_lost(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.failure = WorkerLost("The worker ended.")
    ended = done(paper, ask(paper)["id"])
    assert (ended["status"], ended["error"]["code"]) == ("failed", "job_lost")
    assert len(paper.worker.drawings) == 2
    paper.worker.forget()
    paper.worker.failure = StoreFull("No room.")
    assert done(paper, ask(paper, {"prompt": "y"})["id"])["error"]["code"] == "store_full"
    assert len(paper.worker.drawings) == 1  # no repeat would help


def test_a_result_lives_as_long_as_its_pictures(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(url_lifetime_s=2, sweep_interval_s=0.1)
    row = ask(paper)
    ended = done(paper, row["id"])
    url = ended["result"]["data"][0]["url"]
    eventually(lambda: look(paper, row["id"])["result_state"] == "gone", within_s=10)
    assert time.time() >= ended["result_expires"]
    late = look(paper, row["id"])
    assert (late["status"], late["result"], late["result_expires"]) == ("done", None, ended["result_expires"])
    with httpx.Client(trust_env=False) as client:
        assert client.get(url).status_code == 403


def test_pictures_that_are_gone_before_their_time(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    ended = done(paper, ask(paper, {"response_format": "b64_json"})["id"])
    assert base64.b64decode(ended["result"]["data"][0]["b64_json"]).startswith(b"\x89PNG")
    for picture in (paper.app.state.services.settings.data_dir / "pictures").iterdir():
        picture.unlink()
    late = look(paper, ended["id"])
    assert (late["result_state"], late["result"]) == ("gone", None)


def test_a_key_sees_its_own_alone(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    keyring = Keyring(paper.app.state.services.settings.data_dir / "keys.json")
    other = keyring.create("other")
    row = ask(paper)
    assert done(paper, row["id"])["status"] == "done"

    def foreign(client: httpx.Client) -> bool:
        return client.get(JOBS).status_code == 200

    with paper.client(headers={"authorization": f"Bearer {other}"}) as client:
        eventually(lambda: foreign(client))
        assert client.get(JOBS).json()["data"] == []
        assert_api_error(client.get(f"{JOBS}/{row['id']}"), 404, "not_found")
        assert_api_error(client.delete(f"{JOBS}/{row['id']}"), 404, "not_found")


def test_a_database_that_cannot_be_used_refuses_async_jobs_alone(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    path = paper.app.state.services.settings.data_dir / FILE_NAME
    kept = done(paper, ask(paper)["id"])
    path.unlink()
    path.mkdir()  # root may write what is read-only
    refused = paper.post({"prompt": "x"}, headers=ASYNC)
    error = assert_api_error(refused, 507, "job_not_kept")
    assert "Prefer: respond-async" in error["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert paper.post({"prompt": "x"}).status_code == 200
    assert look(paper, kept["id"])["status"] == "done"  # what is remembered is told
    with paper.client() as client:
        assert client.get(JOBS).status_code == 200
    path.rmdir()
    assert ask(paper)["status"] in ("queued", "running", "done")


def test_an_end_that_cannot_be_written_is_written_later(
    paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "LOOK_EVERY_S", 0.1)
    paper = paper_servers.open()
    services = paper.app.state.services
    path = services.settings.data_dir / FILE_NAME
    paper.worker.gate.clear()
    row = ask(paper)
    eventually(lambda: rows(paper, "SELECT state FROM async_jobs") == [("begun",)])
    path.rename(path.with_name("moved"))
    path.mkdir()
    paper.worker.gate.set()
    ended = done(paper, row["id"])
    assert fetched(ended["result"]["data"][0]["url"])
    assert len(services.backlog) == 1
    path.rmdir()
    path.with_name("moved").rename(path)
    eventually(lambda: rows(paper, "SELECT state FROM async_jobs") == [("done",)])
    eventually(lambda: len(services.backlog) == 0)
    assert look(paper, row["id"])["result"] == ended["result"]
    assert len(paper.worker.drawings) == 1


def test_a_revoked_keys_jobs_are_dropped(paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder, "LOOK_EVERY_S", 0.1)
    paper = paper_servers.open(keys=True, queue_size=1)
    keyring = Keyring(paper.app.state.services.settings.data_dir / "keys.json")
    other = keyring.create("other")
    paper.worker.gate.clear()
    ask(paper)
    eventually(lambda: paper.worker.drawings)

    def asked() -> bool:
        headers = {**ASYNC, "authorization": f"Bearer {other}"}
        with paper.client(headers=headers) as client:
            return client.post("/v1/images/generations", json={"prompt": "x"}).status_code == 202

    eventually(asked)
    assert len(rows(paper, "SELECT key FROM async_jobs")) == 2
    keyring.revoke("other")
    eventually(lambda: len(rows(paper, "SELECT key FROM async_jobs")) == 1, within_s=10)
    paper.worker.gate.set()
    eventually(lambda: len(paper.app.state.services.backlog) == 0)
    assert len(paper.worker.drawings) == 1


def test_quotas_are_asked_with_the_202_and_given_back_at_the_end(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    services = paper.app.state.services
    keyring = Keyring(services.settings.data_dir / "keys.json")
    limits = Limits(pictures_per_day=3, megapixel_steps_per_day=1)
    none = keyring.create("none", but=lambda entry: replace(entry, limits=Limits(jobs=0)))
    few = keyring.create("few", but=lambda entry: replace(entry, limits=limits))
    payer = keyring.list()[-1].principal.payer
    small = {"prompt": "x", "size": "256x256", "num_inference_steps": 10}
    paper.worker.gate.clear()

    def asked(key: str, **body: Any) -> httpx.Response:
        with paper.client(headers={**ASYNC, "authorization": f"Bearer {key}"}) as client:
            return client.post("/v1/images/generations", json={**small, **body})

    eventually(lambda: asked(none).status_code == 429)  # once the server has seen the key
    assert_api_error(asked(none), 429, "quota_exceeded")
    assert_api_error(asked(few, n=4), 429, "quota_exceeded")
    assert_api_error(asked(few, n=3, num_inference_steps=150), 429, "quota_exceeded")
    row = asked(few, n=2).json()
    assert_api_error(asked(few, n=2), 429, "quota_exceeded")
    assert services.accounts.today(payer).pictures == 2
    with paper.client(headers={"authorization": f"Bearer {few}"}) as client:
        assert client.delete(f"{JOBS}/{row['id']}").json()["status"] == "cancelled"
        assert services.accounts.today(payer).pictures == 0
        paper.worker.gate.set()
        admitted = asked(few, n=3)
        assert admitted.status_code == 202, admitted.text
        row = admitted.json()
        eventually(lambda: client.get(f"{JOBS}/{row['id']}").json()["status"] == "done")
    assert services.accounts.today(payer).used.pictures == 3
    assert_api_error(asked(few), 429, "quota_exceeded")
