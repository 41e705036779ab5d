"""Progress and interrupt of A1111's API, over a real socket with a worker of paper."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.api.sdapi import painting
from server.edge.keys import Keyring
from tests.paper import Paper, PaperServers
from tests.pictures import opened
from tests.running import eventually
from tests.sdapi import IDLE_STATE, IMG2IMG, SOURCE, TXT2IMG, begin, info, pictures, post, progress


def test_idle(paper: Paper) -> None:
    assert progress(paper) == {
        "progress": 0, "eta_relative": 0, "state": IDLE_STATE, "current_image": None, "textinfo": None
    }  # fmt: skip
    assert post(paper, "/sdapi/v1/interrupt").json() == {}
    assert post(paper, "/sdapi/v1/interrupt", {}).json() == {}
    assert post(paper, "/sdapi/v1/interrupt", content=b'""').json() == {}
    assert post(paper, "/sdapi/v1/skip").json() is None


def test_progress_while_a_picture_is_drawn(paper: Paper) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {"prompt": "a cat", "n_iter": 2, "steps": 20})
        told = eventually(lambda: (now := progress(paper))["current_image"] and now)
        assert told["progress"] == pytest.approx(0.51)
        state = told["state"]
        assert {**state, "job_timestamp": "0"} == {
            **IDLE_STATE, "job": "scripts_txt2img", "job_count": 2, "job_no": 1, "sampling_steps": 2
        }  # fmt: skip
        assert len(state["job_timestamp"]) == 14
        assert opened(base64.b64decode(told["current_image"])).format == "PNG"
        assert progress(paper, "?skip_current_image=true")["current_image"] is None
        assert progress(paper, "?skip_current_image=nonsense")["current_image"]
        paper.worker.gate.set()
        assert len(pictures(waiting.result(10))) == 2
    assert progress(paper)["state"] == IDLE_STATE


@pytest.mark.parametrize("way", ["interrupt", "skip"])
def test_an_interrupted_picture_is_answered_as_it_is(paper: Paper, way: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {"prompt": "a cat", "batch_size": 2, "seed": 7})
        eventually(lambda: progress(paper)["current_image"])
        post(paper, f"/sdapi/v1/{way}")
        answer = waiting.result(10)
    found = pictures(answer)
    assert [opened(picture).size for picture in found] == [(2, 2), (2, 2)]
    assert info(answer)["all_seeds"] == [7, 8]
    assert [opened(picture).info["parameters"] for picture in found] == info(answer)["infotexts"]
    eventually(lambda: paper.worker.cancelled)
    assert progress(paper)["state"] == IDLE_STATE


def test_what_is_interrupted_before_anything_is_seen_has_no_pictures(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(running_jobs=1)
    with ThreadPoolExecutor(2) as pool:
        holding = begin(pool, paper, {"prompt": "a cat"}, "/v1/images/generations")
        waiting = pool.submit(post, paper, TXT2IMG, {"prompt": "a dog", "batch_size": 2})
        told = eventually(lambda: (now := progress(paper))["state"]["job_count"] and now)
        assert (told["progress"], told["current_image"]) == (0.01, None)
        post(paper, "/sdapi/v1/interrupt")
        answer = waiting.result(10)
        assert pictures(answer) == []
        assert len(info(answer)["infotexts"]) == 2
        paper.worker.gate.set()
        assert holding.result(10).status_code == 200  # not a job of these routes
    assert paper.worker.cancelled == []


def test_a_job_deleted_elsewhere_is_an_error(paper: Paper) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {"prompt": "a cat"})
        with paper.client() as client:
            (row,) = [each for each in client.get("/v1/images/jobs").json()["data"] if each["status"] == "running"]
            client.delete(f"/v1/images/jobs/{row['id']}")
        answer = waiting.result(10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_cancelled")


def test_a_key_sees_and_interrupts_its_own_jobs_alone(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    other = Keyring(paper.app.state.services.settings.data_dir / "keys.json").create("other")
    with ThreadPoolExecutor(1) as pool, paper.client(headers={"authorization": f"Bearer {other}"}) as stranger:
        eventually(lambda: stranger.get("/sdapi/v1/progress").status_code == 200)  # once its key has been read
        waiting = begin(pool, paper, {"prompt": "a cat"})
        assert stranger.get("/sdapi/v1/progress").json()["state"] == IDLE_STATE
        assert stranger.post("/sdapi/v1/interrupt").json() == {}
        assert progress(paper)["state"]["job_count"] == 1
        paper.worker.gate.set()
        assert len(pictures(waiting.result(10))) == 1
    assert paper.worker.cancelled == []


def test_a_closed_connection_cancels(paper: Paper) -> None:
    """LibreChat and Open WebUI never post interrupt."""
    paper.worker.gate.clear()
    body = json.dumps({"prompt": "a cat"}).encode()
    host, port = paper.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s".replace(
                b"Host: x", b"Host: localhost"
            )
            % (len(body), body)
        )
        eventually(lambda: paper.worker.drawings)
    eventually(lambda: paper.worker.cancelled)
    assert progress(paper)["state"] == IDLE_STATE


def test_without_metadata_nothing_is_written_into_pictures(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(picture_metadata=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {"prompt": "a cat"})
        eventually(lambda: progress(paper)["current_image"])
        post(paper, "/sdapi/v1/interrupt")
        (picture,) = pictures(waiting.result(10))
    assert "parameters" not in opened(picture).info
    assert paper.worker.encodings[0].metadata is False


# Between other things that happen to jobs.

HIRES = {"enable_hr": True, "hr_scale": 2, "width": 64, "height": 64, "steps": 4, "batch_size": 2, "seed": 5}


def test_an_interrupt_between_the_two_passes(paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    """No drawing goes on just then, and the first pass's pictures are what there is to see."""
    between = threading.Event()
    scaled = painting.scaled

    def slowly(*arguments: Any, **options: Any) -> Any:
        between.set()
        time.sleep(0.5)
        return scaled(*arguments, **options)

    monkeypatch.setattr(painting, "scaled", slowly)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, paper, TXT2IMG, HIRES)
        assert between.wait(10)
        post(paper, "/sdapi/v1/interrupt")
        answer = waiting.result(10)
    assert len(pictures(answer)) == 2
    assert info(answer)["all_seeds"] == [5, 6]
    assert len(paper.worker.drawings) == 1
    assert paper.app.state.services.queue.held == 0
    assert progress(paper)["state"] == IDLE_STATE


def test_an_interrupt_ends_all_jobs_of_a_key(paper: Paper) -> None:
    with ThreadPoolExecutor(3) as pool:
        waiting = [begin(pool, paper, {"seed": seed}) for seed in (1, 2)]
        waiting.append(begin(pool, paper, {"seed": 3, "init_images": [SOURCE]}, IMG2IMG))
        assert progress(paper)["state"]["job"] == "scripts_txt2img"
        post(paper, "/sdapi/v1/interrupt")
        answers = [each.result(10) for each in waiting]
    assert [info(answer)["seed"] for answer in answers] == [1, 2, 3]
    assert all(len(pictures(answer)) == 1 for answer in answers)


def test_progress_is_answered_while_jobs_come_and_go(paper: Paper) -> None:
    stop = threading.Event()
    states: set[int] = set()

    def watch() -> None:
        while not stop.is_set():
            states.add(progress(paper)["state"]["job_count"])

    with ThreadPoolExecutor(4) as pool:
        watching = [pool.submit(watch) for _ in range(2)]
        try:
            for number in range(40):
                body = {**HIRES, "seed": number} if number % 2 else {"n_iter": 3, "seed": number}
                assert post(paper, TXT2IMG, body).status_code == 200
        finally:
            stop.set()
        for each in watching:
            each.result(10)
    assert states <= {0, 2, 3}
    assert progress(paper)["state"] == IDLE_STATE


@pytest.mark.parametrize("body", [{}, HIRES])
def test_the_deadline_is_of_both_passes(paper_servers: PaperServers, body: dict[str, Any]) -> None:
    paper = paper_servers.open(job_timeout_s=1)
    draw = paper.worker.draw

    async def held(drawing: Any, *arguments: Any) -> Any:
        if bool(drawing.spec.sources) == bool(body):
            paper.worker.gate.clear()
        return await draw(drawing, *arguments)

    paper.worker.draw = held  # type: ignore[assignment,method-assign]
    answer = post(paper, TXT2IMG, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert answer.json()["detail"] == answer.json()["error"]["message"]
    assert progress(paper)["state"] == IDLE_STATE
    eventually(lambda: paper.app.state.services.queue.held == 0)


def test_a_server_that_shuts_down_finishes_both_passes_and_refuses_the_rest(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(running_jobs=1)
    with ThreadPoolExecutor(2) as pool:
        drawn = begin(pool, paper, HIRES)
        queued = pool.submit(post, paper, TXT2IMG, {"seed": 9})
        queue = paper.app.state.services.queue
        eventually(lambda: queue.queued == 1)
        (ticket,) = [ticket for ticket in queue._lanes if not ticket.done()]
        ticket.get_loop().call_soon_threadsafe(queue.drain)
        answers = [queued.result(10), post(paper, TXT2IMG, {})]
        paper.worker.gate.set()
        assert len(pictures(drawn.result(10))) == 2
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert answer.headers["retry-after"] == "5"
        assert answer.json()["detail"].startswith("The server is shutting down.")
