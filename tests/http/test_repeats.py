"""The same request again: done once while it goes on, answered again to its key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from server.errors import WorkerLost
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import png, scene
from tests.running import Running, eventually
from tests.sse import kinds

BODY = {"prompt": "an apple", "n": 2, "seed": 7}
UNSEEDED = {"prompt": "an apple", "n": 2}
KEY = {"idempotency-key": "one-and-the-same"}


def in_the_background(work: Callable[..., httpx.Response], *args: Any, **options: Any) -> Future[httpx.Response]:
    future: Future[httpx.Response] = Future()
    threading.Thread(target=lambda: future.set_result(work(*args, **options)), daemon=True).start()
    return future


def waiting(paper: Paper) -> int:
    """Requests that wait for the paper's first job."""
    ((_, job), *_) = paper.app.state.services.jobs.jobs("local")
    going_on = paper.app.state.services.admission.repeats.going_on
    return sum(work.waiters for work in going_on if work.job is job)


def test_four_at_a_time_are_drawn_once(server: Running) -> None:
    """The real worker; the metric counts what was really made."""
    before = server.metric("darkroom_pictures_total")
    fields = {"prompt": "four at a time", "size": "256x256", "num_inference_steps": 40, "seed": 1}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.draw(**fields), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-job-id"] for answer in answers}) == 1
    assert server.metric("darkroom_pictures_total") == before + 1


def test_equal_requests_without_a_seed_get_a_picture_each(paper_servers: PaperServers) -> None:
    """The ai package asks four times at once where a model draws one picture a request, and wants four."""
    paper = paper_servers.open()
    paper.worker.gate.clear()
    asked = [in_the_background(paper.post, UNSEEDED) for _ in range(4)]
    eventually(lambda: len(paper.worker.drawings) == 4)
    paper.worker.gate.set()
    assert len({future.result(10).content for future in asked}) == 4


@pytest.mark.parametrize("headers", [{"x-stainless-retry-count": "1"}, {"x-job-id": "as-I-named-it"}, KEY])
def test_a_repeat_that_says_so_joins_without_a_seed(paper_servers: PaperServers, headers: dict[str, str]) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()
    first = {"x-stainless-retry-count": "0"} if "x-stainless-retry-count" in headers else headers
    asked = [in_the_background(paper.post, UNSEEDED, headers=first)]
    eventually(lambda: paper.worker.drawings)
    asked.append(in_the_background(paper.post, UNSEEDED, headers=headers))
    eventually(lambda: waiting(paper) == 2)
    paper.worker.gate.set()
    assert len({future.result(10).content for future in asked}) == 1
    assert len(paper.worker.drawings) == 1


def test_the_job_ends_only_when_all_have_left(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()
    with paper.client() as leaving, paper.client() as staying, ThreadPoolExecutor(2) as pool:
        gone = pool.submit(leaving.post, "/v1/images/generations", json=BODY, timeout=3)  # both are to be there by then
        stays = pool.submit(staying.post, "/v1/images/generations", json=BODY, timeout=20)
        eventually(lambda: paper.worker.drawings and waiting(paper) == 2)
        with pytest.raises(httpx.ReadTimeout):
            gone.result(30)
        eventually(lambda: waiting(paper) == 1)
        assert not paper.worker.cancelled
        paper.worker.gate.set()
        assert stays.result(10).status_code == 200
    assert len(paper.worker.drawings) == 1


def test_when_all_have_left_it_is_cancelled(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()
    with paper.client() as one, paper.client() as two, ThreadPoolExecutor(2) as pool:
        gone = [pool.submit(c.post, "/v1/images/generations", json=BODY, timeout=0.5) for c in (one, two)]
        for future in gone:
            with pytest.raises(httpx.ReadTimeout):
                future.result(5)
    eventually(lambda: len(paper.worker.cancelled) == 1)
    assert len(paper.worker.drawings) == 1
    eventually(lambda: paper.app.state.services.queue.held == 0)


def test_both_prefixes_and_forms_with_equal_files_join(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()

    def edit(prefix: str, picture: bytes, name: str) -> httpx.Response:
        with paper.client() as client:
            return client.post(
                f"{prefix}/images/edits", data={"prompt": "x", "seed": "1"}, files={"image": (name, picture)}
            )

    same, other = png(scene(40, 40)), png(scene(41, 40))
    asked = [in_the_background(edit, prefix, same, f"{prefix}.png") for prefix in ("/v1", "/api")]
    asked.append(in_the_background(edit, "/v1", other, "/v1.png"))
    eventually(lambda: len(paper.worker.drawings) == 2)
    assert len(paper.app.state.services.admission.repeats.going_on) == 2
    eventually(lambda: paper.app.state.services.queue.held == 2)
    paper.worker.gate.set()
    answers = [future.result(10) for future in asked]
    assert answers[0].content == answers[1].content != answers[2].content
    assert len(paper.worker.drawings) == 2


def test_another_body_or_route_does_not_join(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()
    asked = [in_the_background(paper.post, {**BODY, **more}) for more in ({}, {"seed": 1}, {"stream": True})]
    eventually(lambda: len(paper.worker.drawings) == 3)
    paper.worker.gate.set()
    assert [future.result(10).status_code for future in asked] == [200] * 3


def test_joined_streams_both_see_what_is_still_to_come(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()
    body = {**BODY, "stream": True, "partial_images": 1}
    first = in_the_background(paper.post, body)
    eventually(lambda: paper.worker.drawings)
    second = in_the_background(paper.post, body)
    eventually(lambda: waiting(paper) == 2)
    paper.worker.gate.set()
    completed = ["image_generation.completed"] * 2
    assert kinds(first.result(10).text) == ["image_generation.partial_image"] * 2 + completed
    assert kinds(second.result(10).text) == completed
    assert len(paper.worker.drawings) == 1


def test_a_joined_request_finds_the_job_under_its_own_name_too(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.gate.clear()
    asked = [in_the_background(paper.post, BODY, headers={"x-job-id": "named-first"})]
    eventually(lambda: paper.worker.drawings)
    asked.append(in_the_background(paper.post, BODY, headers={"x-job-id": "named-second"}))
    asked.append(in_the_background(paper.post, BODY, headers={"x-job-id": "named-first"}))  # a client's own repeat
    eventually(lambda: waiting(paper) == 3)
    with paper.client() as client:
        for name in ("named-first", "named-second"):
            row = client.get(f"/v1/images/jobs/{name}").json()
            assert (row["id"], row["status"]) == (name, "running")
    paper.worker.gate.set()
    assert [future.result(10).headers["x-job-id"] for future in asked] == ["named-first", "named-second", "named-first"]


@pytest.mark.parametrize("more", [{"response_format": "b64_json"}, {"response_format": "url"}, {"stream": True}])
def test_a_key_is_answered_alike_after_the_end(paper_servers: PaperServers, more: dict[str, Any]) -> None:
    paper = paper_servers.open()
    first, again = (paper.post({**BODY, **more}, headers=KEY) for _ in range(2))
    assert first.status_code == 200
    if "stream" in more:
        assert kinds(again.text) == kinds(first.text) == ["image_generation.completed"] * 2
    else:
        assert again.content == first.content
    assert again.headers["x-job-id"] == first.headers["x-job-id"]
    assert len(paper.worker.drawings) == 1
    assert paper.post({**BODY, **more}, headers={"idempotency-key": "another"}).status_code == 200
    assert len(paper.worker.drawings) == 2


def test_a_key_with_another_body_is_a_mismatch(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    assert paper.post(BODY, headers=KEY).status_code == 200
    answer = paper.post({**BODY, "n": 1}, headers=KEY)
    assert_api_error(answer, 409, "idempotency_mismatch")
    assert answer.headers["x-should-retry"] == "false"
    assert len(paper.worker.drawings) == 1


def test_a_failure_is_not_kept(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.failure = WorkerLost("It died.")
    assert_api_error(paper.post(BODY, headers=KEY), 503, "worker_lost")
    paper.worker.failure = None
    assert paper.post(BODY, headers=KEY).status_code == 200


def test_an_endless_key_is_refused(paper: Paper) -> None:
    assert_api_error(paper.post(BODY, headers={"idempotency-key": "k" * 256}), 400, "invalid_value")


def test_a_repeat_is_not_answered_with_urls_that_have_expired(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(url_lifetime_s=1)
    first = paper.post(BODY, headers=KEY).json()["data"][0]["url"]
    time.sleep(1.1)
    again = paper.post(BODY, headers=KEY).json()["data"][0]["url"]
    assert again != first
    assert len(paper.worker.drawings) == 2


def test_no_more_than_a_few_wait_for_one_job(paper_servers: PaperServers) -> None:
    """Each that joins holds its body, and no permit: without a bound, one key could fill the memory."""
    paper = paper_servers.open()
    paper.worker.gate.clear()

    def ask() -> httpx.Response:
        with paper.client() as client:
            return client.post("/v1/images/generations", json=BODY, timeout=20)

    asked = [in_the_background(ask) for _ in range(16)]
    eventually(lambda: paper.worker.drawings and waiting(paper) == 16)
    assert_api_error(ask(), 429, code="key_limit")
    paper.worker.gate.set()
    assert {future.result(10).status_code for future in asked} == {200}


def test_two_keys_are_refused(paper_servers: PaperServers) -> None:
    with paper_servers.open().client() as client:
        headers = [("idempotency-key", "one"), ("idempotency-key", "two")]
        answer = client.post("/v1/images/generations", json=BODY, headers=headers)
    error = assert_api_error(answer, 400, code="invalid_value")
    assert error["param"] == "Idempotency-Key"
