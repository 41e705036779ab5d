"""A1111's API as tests ask it: requests, and what is read out of the answers."""

from __future__ import annotations

import base64
import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx

from tests.paper import Paper
from tests.pictures import png, scene, text
from tests.running import Running, eventually

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
SOURCE = text(png(scene(64, 64)))


def post(where: Paper | Running, path: str, body: Any = None, **options: Any) -> httpx.Response:
    with where.client() as client:
        return client.post(path, json=body, **options) if body is not None else client.post(path, **options)


def get(where: Paper | Running, path: str) -> Any:
    with where.client() as client:
        return client.get(path).raise_for_status().json()


def pictures(answer: httpx.Response) -> list[bytes]:
    assert answer.status_code == 200, answer.text[:500]
    body = answer.json()
    assert set(body) == {"images", "parameters", "info"}
    return [base64.b64decode(image, validate=True) for image in body["images"]]


def info(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.json()["info"])
    return found


def refused(answer: httpx.Response, status: int, param: str) -> str:
    """The text of a refusal, which names the field."""
    assert answer.status_code == status, answer.text[:500]
    error = answer.json()["error"]
    assert error["param"] == param
    message: str = error["message"]
    return message


IDLE_STATE = {
    "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
    "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
}  # fmt: skip


def progress(where: Paper | Running, query: str = "") -> Any:
    return get(where, f"/sdapi/v1/progress{query}")


def begin(pool: ThreadPoolExecutor, paper: Paper, body: dict[str, Any], path: str = TXT2IMG) -> Future[httpx.Response]:
    """A request that the worker holds."""
    paper.worker.gate.clear()
    before = len(paper.worker.drawings)
    waiting = pool.submit(post, paper, path, body)
    eventually(lambda: len(paper.worker.drawings) > before)
    return waiting
