"""Jobs by name: how far they are, who may see them, and how they are stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from server.edge.keys import Keyring
from server.errors import StoreFull
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.running import Running, eventually

JOBS = "/v1/images/jobs"


def get(paper: Paper, path: str = "", *, key: str | None = None) -> httpx.Response:
    with paper.client(**({} if key is None else {"headers": {"authorization": f"Bearer {key}"}})) as client:
        return client.get(JOBS + path)


def in_the_background(work: Callable[..., httpx.Response], *args: Any, **options: Any) -> Future[httpx.Response]:
    future: Future[httpx.Response] = Future()
    threading.Thread(target=lambda: future.set_result(work(*args, **options)), daemon=True).start()
    return future


def test_a_running_jobs_steps_can_be_watched_and_cancelled(server: Running) -> None:
    """The real worker: progress while it draws, and no more of it soon after DELETE."""
    job = {"x-job-id": "watched_job-1"}
    body = {"prompt": "a red apple", "size": "256x256", "num_inference_steps": 150, "n": 2}
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/v1/images/generations", json=body, headers=job)
        path = f"{JOBS}/watched_job-1"
        with server.client() as other:
            eventually(lambda: other.get(path).status_code == 200)
            first = eventually(lambda: (row := other.get(path).json())["progress"]["done"] >= 2 and row)
            assert (first["status"], first["place"], first["progress"]["of"]) == ("running", 0, 150)
            assert first["eta_s"] > 0
            assert first["error"] is None
            later = eventually(
                lambda: (row := other.get(path).json())["progress"]["done"] > first["progress"]["done"] and row
            )
            assert later["id"] == "watched_job-1"
            row = other.delete(path).json()
        refused = waiting.result(20)
    assert row["status"] == "cancelled"
    assert row["progress"]["done"] < 150
    assert (row["place"], row["eta_s"]) == (None, None)
    assert_api_error(refused, 409, "job_cancelled")
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["x-job-id"] == "watched_job-1"
    assert server.metric("darkroom_queue_jobs", state="running") == 0


def test_a_row_from_beginning_to_end(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(running_jobs=1)
    paper.worker.gate.clear()
    queue = paper.app.state.services.queue

    def stands(held: int, queued: int) -> bool:
        return (queue.held, queue.queued) == (held, queued)

    asked = []
    for seed in range(3):
        body = {"prompt": "x", "seed": seed, "model": "dall-e-3"}
        asked.append(in_the_background(paper.post, body, headers={"x-job-id": f"job-name-{seed}"}))
        eventually(partial(stands, seed + 1, seed))
    rows = get(paper).json()
    assert rows["object"] == "list"
    assert [row["id"] for row in rows["data"]] == [f"job-name-{seed}" for seed in range(3)]
    assert [row["status"] for row in rows["data"]] == ["running", "queued", "queued"]
    assert [row["place"] for row in rows["data"]] == [0, 1, 2]
    assert {row["model"] for row in rows["data"]} == {"dall-e-3"}
    row = get(paper, "/job-name-0").json()
    assert row == rows["data"][0] | {"eta_s": row["eta_s"]}
    assert set(row) == {
        *("id", "object", "status", "created", "model", "n", "place", "eta_s", "progress", "error"),
    }
    assert row["object"] == "image.job"
    paper.worker.gate.set()
    for seed, future in enumerate(asked):
        assert future.result(10).headers["x-job-id"] == f"job-name-{seed}"
    assert [row["status"] for row in get(paper).json()["data"]] == ["done"] * 3


def test_deleting_one_that_waits_its_turn_and_one_that_has_ended(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(running_jobs=1)
    paper.worker.gate.clear()
    queue = paper.app.state.services.queue
    first = in_the_background(paper.post, {"prompt": "x", "seed": 1}, headers={"x-job-id": "the-first"})
    eventually(lambda: paper.worker.drawings)
    second = in_the_background(paper.post, {"prompt": "x", "seed": 2}, headers={"x-job-id": "the-second"})
    eventually(lambda: queue.queued == 1)
    with paper.client() as client:
        assert client.delete(f"{JOBS}/the-second").json()["status"] == "cancelled"
        assert_api_error(second.result(10), 409, "job_cancelled")
        paper.worker.gate.set()
        assert first.result(10).status_code == 200
        assert client.delete(f"/api/images/jobs/{'the-first'}").json()["status"] == "done"
    assert len(paper.worker.drawings) == 1
    assert queue.held == 0


def test_a_cancelled_stream_ends_with_an_error_event(paper: Paper) -> None:
    paper.worker.gate.clear()
    body = {"prompt": "x", "stream": True}
    answer = in_the_background(paper.post, body, headers={"x-job-id": "a-stream-job"})
    eventually(lambda: paper.worker.drawings)
    with paper.client() as client:
        client.delete(f"{JOBS}/a-stream-job")
    text = answer.result(10).text
    assert "job_cancelled" in text
    assert paper.worker.cancelled


def test_why_a_job_failed(paper: Paper) -> None:
    paper.worker.failure = StoreFull("No room.", param="n")
    answer = paper.post({"prompt": "x"})
    row = get(paper, f"/{answer.headers['x-job-id']}").json()
    assert row["status"] == "failed"
    assert row["error"] == {"message": "No room.", "type": "server_error", "param": "n", "code": "store_full"}


def test_every_answer_after_admission_names_its_job_and_no_other_does(paper: Paper) -> None:
    late = paper.post({"prompt": "x", "image": "not base64!"})  # admitted, then found wanting
    assert_api_error(late, 400, "invalid_image")
    assert get(paper, f"/{late.headers['x-job-id']}").json()["status"] == "failed"
    assert "x-job-id" not in paper.post({"prompt": "x", "n": 11}).headers
    assert "x-job-id" not in get(paper).headers


@pytest.mark.parametrize("name", ["short", "x" * 65, "with space", "dots.are.not", "café-job-1"])
def test_ids_that_nobody_may_choose(paper: Paper, name: str) -> None:
    answer = paper.post({"prompt": "x"}, headers={"x-job-id": name.encode()})
    assert assert_api_error(answer, 400, "invalid_value")["param"] == "x-job-id"
    assert not paper.worker.drawings


def test_a_chosen_id_serves_once(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    header = {"x-job-id": "chosen-by-me"}
    assert paper.post({"prompt": "x"}, headers=header).headers["x-job-id"] == "chosen-by-me"
    assert_api_error(paper.post({"prompt": "y"}, headers=header), 400, "invalid_value")
    paper.worker.failure = StoreFull("No room.")
    other = {"x-job-id": "chosen-again"}
    assert paper.post({"prompt": "x"}, headers=other).status_code == 507
    paper.worker.failure = None
    assert paper.post({"prompt": "x"}, headers=other).status_code == 200  # it had come to nothing


def test_two_principals_see_nothing_of_each_other(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    other = Keyring(paper.app.state.services.settings.data_dir / "keys.json").create("other")
    eventually(lambda: get(paper, key=other).status_code == 200)
    paper.worker.gate.clear()
    chosen = {"x-job-id": "the-same-name"}
    body = {"prompt": "x"}
    both = [
        in_the_background(paper.post, body, headers={**chosen, "authorization": f"Bearer {key}"})
        for key in (paper.key, other)
    ]
    eventually(lambda: len(paper.worker.drawings) == 2)  # nor do they join: the bodies are equal
    assert len({drawing.principal for drawing in paper.worker.drawings}) == 2
    mine = in_the_background(paper.post, {"prompt": "y"}, headers={
        "x-job-id": "only-mine", "authorization": f"Bearer {paper.key}"})  # fmt: skip
    eventually(lambda: len(paper.worker.drawings) == 3)
    assert_api_error(get(paper, "/only-mine", key=other), 404, "not_found")
    with paper.client(headers={"authorization": f"Bearer {other}"}) as client:
        assert_api_error(client.delete(f"{JOBS}/only-mine"), 404, "not_found")
    assert [row["id"] for row in get(paper, key=other).json()["data"]] == ["the-same-name"]
    paper.worker.gate.set()
    assert [future.result(10).status_code for future in (*both, mine)] == [200] * 3
    assert not paper.worker.cancelled


def test_a_new_key_of_an_old_name_sees_nothing_of_the_old_keys(paper_servers: PaperServers) -> None:
    """It saw the old key's jobs, could cancel them, and was answered with its pictures by Idempotency-Key."""
    paper = paper_servers.open(keys=True)
    keyring: Keyring = paper.app.state.keyring
    body = {"prompt": "a secret", "response_format": "b64_json"}
    headers = {"idempotency-key": "one-and-the-same", "x-job-id": "the-first-job"}
    first = paper.post(body, headers=headers)
    assert first.status_code == 200
    assert keyring.revoke("tester")
    paper.key = keyring.create("tester")
    assert get(paper).json()["data"] == []
    assert_api_error(get(paper, "/the-first-job"), 404, "not_found")
    again = paper.post(body, headers=headers)
    assert again.status_code == 200
    assert len(paper.worker.drawings) == 2
    assert again.json()["data"][0]["seed"] != first.json()["data"][0]["seed"]
    principals = [drawing.principal for drawing in paper.worker.drawings]
    assert principals[0] != principals[1]  # nor do they share their part of the device
    with paper.client() as client:
        assert client.get("/api/user/info").json()["user"]["fullName"] == "tester"
