"""A server under faults, from outside. The last test stops it, so it stands last."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import psutil

from tests.assertions import assert_api_error
from tests.faults.conftest import STEP_TIMEOUT_S
from tests.pictures import png, scene, text
from tests.running import Running, eventually

LONG = {"num_inference_steps": 150, "size": "256x256"}  # many seconds of drawing
SHORT = {"num_inference_steps": 1, "size": "256x256"}


def steps(running: Running) -> float:
    return running.metric("darkroom_steps_total")


def in_the_background(work: Callable[..., httpx.Response], **fields: Any) -> Future[httpx.Response]:
    future: Future[httpx.Response] = Future()
    threading.Thread(target=lambda: future.set_result(work(**fields)), daemon=True).start()
    return future


def drawing(running: Running, **fields: Any) -> Future[httpx.Response]:
    """A request that has made its first steps."""
    before = steps(running)
    answer = in_the_background(running.draw, **fields)
    eventually(lambda: steps(running) > before or answer.done(), within_s=120)
    assert not answer.done(), answer.result().text
    return answer


def test_missing_and_broken_models_leave_the_others_serving(faulty: Running) -> None:
    with faulty.client() as client:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        models = ready.json()["models"]
        assert (models["good"]["state"], models["good"]["shared"]) == ("ready", True)
        for name, says in (
            ("missing", "does not exist"),
            ("torn", "truncated"),
            ("deceptive", "does not fit its config.json"),
        ):
            assert models[name]["state"] == "broken"
            assert says in models[name]["reason"]
        listed = {row["id"]: row["state"] for row in client.get("/v1/models").json()["data"]}
        assert listed == {"good": "ready", "missing": "broken", "torn": "broken", "deceptive": "broken"}
    for name in ("missing", "torn", "deceptive"):
        error = assert_api_error(faulty.draw(model=name, **SHORT), 503, "model_unavailable")
        assert error["param"] == "model"
        assert "/" + name not in error["message"]  # no paths on the wire
        edit = faulty.draw(model=name, image=text(png(scene(16, 16))), **SHORT)
        assert_api_error(edit, 503, "model_unavailable")
    assert faulty.draw(model="good", **SHORT).status_code == 200


def test_a_client_that_leaves_stops_the_work_at_the_next_step(faulty: Running) -> None:
    body = json.dumps({"prompt": "a red apple", **LONG}).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {faulty.key}\r\n"
    before = steps(faulty)
    cancelled = faulty.metric("darkroom_jobs_total", outcome="cancelled")
    with socket.create_connection(("127.0.0.1", faulty.port)) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: steps(faulty) >= before + 3)
    eventually(lambda: faulty.metric("darkroom_jobs_total", outcome="cancelled") > cancelled, within_s=10)
    noticed = steps(faulty)
    assert noticed < before + 100
    for state in ("queued", "running"):
        assert faulty.metric("darkroom_queue_jobs", state=state) == 0
    # The step under way when the word came, and one that was already told of: no more.
    assert faulty.draw(**SHORT).status_code == 200
    assert steps(faulty) - 1 <= noticed + 2


def test_forty_clients_for_four_places(faulty: Running) -> None:
    def ask(seed: int) -> tuple[float, httpx.Response]:
        started = time.monotonic()
        answer = faulty.draw(num_inference_steps=40, size="256x256", seed=seed)
        return time.monotonic() - started, answer

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    refused = [(seconds, answer) for seconds, answer in answers if answer.status_code == 429]
    assert sum(answer.status_code == 200 for _, answer in answers) == 40 - len(refused) >= 4
    assert len(refused) >= 20
    for _, answer in refused:
        assert_api_error(answer, 429, "queue_full")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    served = min(seconds for seconds, answer in answers if answer.status_code == 200)
    assert min(seconds for seconds, _ in refused) < served
    assert faulty.metric("darkroom_queue_jobs", state="running") == 0
    assert faulty.draw(**SHORT).status_code == 200


def test_no_key_no_prompt_and_no_unknown_name_in_logs_or_metrics(faulty: Running) -> None:
    prompt = 'canary-prompt\n{"level": "error"}'
    assert faulty.draw(**{**SHORT, "prompt": prompt, "negative_prompt": "canary-negative"}).status_code == 200
    faulty.draw(prompt="canary-prompt", model="canary-model")
    faulty.draw(prompt="canary-prompt", size="canary-size")
    faulty.draw(prompt="canary-prompt", model="missing", image="canary-image")
    with faulty.client() as client:
        client.get("/canary-path", params={"canary-query": "1"})
        client.get("/v1/models/canary-model", headers={"user-agent": "canary-agent"})
        client.get("/v1/models", headers={"authorization": "Bearer canary-key"})
        metrics = client.get("/metrics").text
    eventually(lambda: '"route": "/metrics"' in faulty.lines[-1] or "/metrics" in faulty.log)
    assert faulty.key is not None
    for written in (faulty.log, metrics):
        assert "canary" not in written
        assert faulty.key not in written
    records = [line for line in faulty.lines if not line.startswith("Darkroom listens on ")]
    assert [line for line in records if not line.startswith('{"time": ')] == []
    assert all(json.loads(line) for line in records)


def test_a_request_that_costs_two_workers_their_lives_is_not_tried_again(faulty: Running) -> None:
    restarts = faulty.metric("darkroom_worker_restarts_total")
    deadly = {**LONG, "prompt": "something deadly"}

    answer = drawing(faulty, **deadly)  # killed: out of memory, a driver's fault
    worker = faulty.worker()
    assert worker is not None
    worker.kill()
    lost = answer.result(60)
    assert_api_error(lost, 503, "worker_lost")
    assert lost.headers["x-should-retry"] == "true"
    assert int(lost.headers["retry-after"]) >= 1
    with faulty.client() as client:
        assert client.get("/livez").status_code == 200

    answer = drawing(faulty, **deadly)  # hangs: a forward that never returns
    worker = faulty.worker()
    assert worker is not None
    stopped_s = time.monotonic()
    worker.send_signal(signal.SIGSTOP)
    assert_api_error(answer.result(STEP_TIMEOUT_S + 60), 503, "worker_lost")
    assert time.monotonic() - stopped_s >= STEP_TIMEOUT_S / 2
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running()

    refused = faulty.draw(**deadly)
    assert_api_error(refused, 500, "generation_failed")
    assert refused.headers["x-should-retry"] == "false"
    assert faulty.draw(**SHORT).status_code == 200  # waits for the third worker
    assert faulty.metric("darkroom_worker_restarts_total") == restarts + 2
    assert faulty.ready()


def test_sigterm_finishes_what_runs_refuses_what_waits_and_exits_0(faulty: Running) -> None:
    first = drawing(faulty, num_inference_steps=60, size="256x256")
    rest = [in_the_background(faulty.draw, num_inference_steps=10, size="256x256", seed=seed) for seed in range(3)]
    eventually(lambda: faulty.metric("darkroom_queue_jobs", state="queued") >= 1)
    waiting = int(faulty.metric("darkroom_queue_jobs", state="queued"))
    faulty.process.terminate()
    assert first.result(60).status_code == 200
    answers = [future.result(60) for future in rest]
    drained = [answer for answer in answers if answer.status_code != 200]
    assert len(drained) >= waiting >= 1
    for answer in drained:
        assert_api_error(answer, 503, "draining")
        assert answer.headers["x-should-retry"] == "true"
    assert faulty.process.wait(timeout=40) == 0
