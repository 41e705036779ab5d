"""A server with two devices, from outside: one process for the module. The last test stops it, so it stands last."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from server.catalog.catalog import Model
from tests.assertions import assert_api_error
from tests.running import ROOT, Running, eventually, start

LONG = {"num_inference_steps": 30, "size": "256x256"}  # seconds of drawing
SHORT = {"num_inference_steps": 2, "size": "256x256", "response_format": "b64_json"}
DEVICES = ("cpu:0", "cpu:1")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, mini: Model) -> Iterator[Running]:
    """Two workers of one thread each, with one model on both and one that is bound to the second."""
    folder = tmp_path_factory.mktemp("two")
    written = yaml.safe_load((ROOT / "models.yaml").read_text())["models"][mini.id]
    both = {**written, "path": mini.plan.folder, "upscaler": str(ROOT / written["upscaler"]), "preload": True}
    models = {"both": both, "bound": {**both, "preload": False, "devices": ["cpu:1"]}}
    file: Path = folder / "models.yaml"
    file.write_text(yaml.safe_dump({"default": "both", "models": models}))
    with start(folder / "data", devices="cpu,cpu", threads=1, drain_timeout_s=150, models=file) as running:
        yield running


def states(running: Running, model: str = "both") -> dict[str, str]:
    with running.client() as client:
        devices = client.get("/readyz").json()["devices"]
    return {device["name"]: device["models"].get(model, "") for device in devices}


def steps(running: Running) -> dict[str, float]:
    return {device: running.metric("darkroom_device_steps_total", device=device) for device in DEVICES}


def worker_of(running: Running, device: str) -> psutil.Process | None:
    for child in psutil.Process(running.process.pid).children():
        with contextlib.suppress(psutil.Error):
            command = child.cmdline()
            if child.status() != psutil.STATUS_ZOMBIE and "--name" in command and device in command:
                return child
    return None


def admin(running: Running, path: str, device: str) -> Any:
    with running.client() as client:
        answer = client.post(f"/v1/{path}", params={"device": device})
    assert answer.is_success, answer.text
    return answer.json()


def test_a_model_to_preload_is_on_both_and_each_worker_has_its_own_threads(two: Running) -> None:
    assert states(two) == {"cpu:0": "ready", "cpu:1": "ready"}
    assert states(two, "bound") == {"cpu:0": "", "cpu:1": "unloaded"}
    for device in DEVICES:
        worker = worker_of(two, device)
        assert worker is not None
        assert worker.environ()["OMP_NUM_THREADS"] == "1"


def test_a_picture_is_the_same_whichever_device_draws_it(two: Running) -> None:
    """And what is asleep or unloaded on one is drawn by the other at once."""
    drawn = {}
    for device, other in (DEVICES, DEVICES[::-1]):
        admin(two, "models/both/load", device)
        admin(two, "models/both/unload", other)
        eventually(lambda other=other: states(two)[other] == "unloaded")  # type: ignore[misc]
        before = steps(two)
        answer = two.draw(seed=11, prompt="a red apple", **SHORT)
        assert answer.status_code == 200, answer.text
        after = steps(two)
        assert after[device] > before[device]
        assert after[other] == before[other]
        drawn[device] = hashlib.sha256(answer.json()["data"][0]["b64_json"].encode()).hexdigest()
    assert drawn["cpu:0"] == drawn["cpu:1"]
    admin(two, "models/both/load", "cpu:0")


def test_a_bound_model_is_drawn_on_its_device_alone(two: Running) -> None:
    before = steps(two)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda seed: two.draw(model="bound", seed=seed, **SHORT), range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    after = steps(two)
    assert after["cpu:0"] == before["cpu:0"]
    assert after["cpu:1"] >= before["cpu:1"] + 6


def drawings(running: Running) -> dict[str, int]:
    with running.client() as client:
        return {device["name"]: device["drawings"] for device in client.get("/readyz").json()["devices"]}


def under_load(running: Running, pool: ThreadPoolExecutor, count: int) -> list[Any]:
    """So many long drawings, begun and spread over both devices."""
    before = steps(running)
    answers = [pool.submit(running.draw, prompt=f"p{number}", seed=number, **LONG) for number in range(count)]
    eventually(lambda: sum(drawings(running).values()) == count, within_s=120)
    eventually(lambda: all(now > before[device] for device, now in steps(running).items()), within_s=120)
    return answers


def test_a_worker_that_is_killed_takes_its_own_drawings_and_no_others(two: Running) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = under_load(two, pool, 6)
        worker, its_own = worker_of(two, "cpu:0"), drawings(two)["cpu:0"]
        assert worker is not None
        worker.kill()
        assert two.draw(seed=77, **SHORT).status_code == 200, "by the other, at once"
        assert two.ready(), "the other serves meanwhile"
        ended: list[httpx.Response] = [answer.result(150) for answer in answers]
    lost = [answer for answer in ended if answer.status_code != 200]
    assert 1 <= len(lost) <= its_own < len(ended)
    for answer in lost:
        assert_api_error(answer, 503, "worker_lost")
    assert two.metric("darkroom_device_restarts_total", device="cpu:0") == 1
    assert two.metric("darkroom_worker_restarts_total") == 1
    eventually(lambda: states(two)["cpu:0"] == "ready", within_s=150)


def test_sigterm_lets_both_devices_finish(two: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = under_load(two, pool, 4)
        two.process.terminate()
        ended = [answer.result(150).status_code for answer in answers]
    assert ended == [200] * 4
    assert two.process.wait(timeout=60) == 0
    assert '"level": "error"' not in two.log.partition("worker lost, starting another")[2]
