"""``stream: true``: events as they come, to readers fast, slow and gone. The worker is of paper, or the real one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from server.edge.deadlines import DeadlineProtocol
from server.errors import WorkerLost
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import opened, pixels, png, right_half, scene, text
from tests.running import Running, eventually
from tests.sse import events, kinds

STREAM = {"prompt": "an apple", "stream": True, "seed": 7}
PARTIAL = "image_generation.partial_image"
COMPLETED = "image_generation.completed"


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none-needed", max_retries=0) as made:
        yield made


def open_stream(paper: Paper, receive_bytes: int = 1 << 16, **fields: Any) -> socket.socket:
    """A streaming request whose answer nobody has begun to read."""
    body = json.dumps({**STREAM, **fields}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", paper.live.port))
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def post_and_then_open_the_gate(paper: Paper) -> httpx.Response:
    """A streaming request whose drawing ends after its headers are out: not some time later, when they may not be."""
    paper.worker.gate.clear()
    with paper.client() as client, client.stream("POST", "/v1/images/generations", json=STREAM) as answer:
        paper.worker.gate.set()
        answer.read()
    return answer


def read_events(connection: socket.socket) -> list[str]:
    """The types of the events that come until the stream ends, or is cut off."""
    raw = bytearray()
    while not raw.endswith(b"\r\n0\r\n\r\n"):
        try:
            piece = connection.recv(1 << 20)
        except ConnectionError:
            break
        if not piece:
            break
        raw += piece
    return [kind.decode() for kind in re.findall(rb"event: (\S+)\n", raw)]


def test_previews_of_the_openai_client_converge_on_the_picture(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        prompt="a red apple on a blue background",
        model="gpt-image-1",
        size="512x384",
        stream=True,
        partial_images=2,
        output_format="jpeg",
        extra_body={"seed": 3, "num_inference_steps": 12},
    )
    *partial, final = list(stream)
    assert [(e.type, e.partial_image_index) for e in partial] == [(PARTIAL, 0), (PARTIAL, 1)]  # type: ignore[union-attr]
    assert final.type == "image_generation.completed"
    assert {e.size for e in (*partial, final)} == {"512x384"}
    assert {e.output_format for e in (*partial, final)} == {"jpeg"}
    shown = [base64.b64decode(e.b64_json) for e in (*partial, final)]
    assert {(opened(data).format, opened(data).size) for data in shown} == {("JPEG", (512, 384))}
    distances = [np.abs(pixels(data) - pixels(shown[-1])).mean() for data in shown[:-1]]
    assert distances[0] > distances[1] > 0
    assert final.usage.total_tokens == final.usage.input_tokens + 32 * 24
    assert final.usage.input_tokens_details.text_tokens >= 7


def test_the_streamed_picture_is_the_one_that_is_answered_at_once(client: openai.OpenAI, server: Running) -> None:
    fields = {"num_inference_steps": 5, "seed": 11}
    (final,) = list(client.images.generate(prompt="a cat", size="256x256", stream=True, extra_body=fields))
    at_once = server.draw(prompt="a cat", size="256x256", response_format="b64_json", **fields)
    assert final.b64_json == at_once.json()["data"][0]["b64_json"]


def test_an_edit_streams_under_its_own_names(client: openai.OpenAI) -> None:
    stream = client.images.edit(
        image=("x.png", png(scene(200, 200))),
        mask=("m.png", png(right_half(200, 200))),
        prompt="a red apple",
        model="gpt-image-1",
        size="256x256",
        stream=True,
        partial_images=1,
        extra_body={"num_inference_steps": 8, "seed": 1},
    )
    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_every_picture_of_n_has_its_previews(server: Running) -> None:
    answer = server.draw(stream=True, partial_images=1, n=3, size="256x256", seed=5, num_inference_steps=6)
    found = events(answer.text)
    shown = [(kind, data["index"], data["seed"]) for kind, data in found]
    assert shown == [(PARTIAL, index, 5 + index) for index in range(3)] + [
        (COMPLETED, index, 5 + index) for index in range(3)
    ]


def test_progress_tells_every_kind_of_step(server: Running) -> None:
    answer = server.draw(stream=True, stream_progress=True, size="256x256", seed=5, num_inference_steps=30)
    told = [data for kind, data in events(answer.text) if kind == "darkroom.progress"]
    done = [data["done"] for data in told]
    assert done == sorted(set(done))
    assert (told[-1]["done"], told[-1]["of"], told[-1]["place"]) == (30, 30, 0)
    assert {data["job"] for data in told} == {answer.headers["x-job-id"]}
    assert {data["state"] for data in told} <= {"queued", "running"}
    assert all(data["eta_s"] >= 0 for data in told)


def test_headers_fields_and_forms_of_the_answer(paper: Paper) -> None:
    answer = paper.post({**STREAM, "n": 2, "partial_images": 1, "quality": "high", "output_format": "webp"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-job-id"] == paper.worker.drawings[0].job_id
    assert "content-length" not in answer.headers
    common = {"type", "b64_json", "created_at", "size", "quality", "background", "output_format", "index", "seed"}
    found = events(answer.text)
    assert [kind for kind, _ in found] == [PARTIAL] * 2 + [COMPLETED] * 2
    for kind, data in found:
        assert set(data) == common | ({"partial_image_index"} if kind == PARTIAL else {"usage"})
        assert (data["size"], data["quality"], data["output_format"]) == ("1024x1024", "high", "webp")
    assert [data["index"] for _, data in found] == [0, 1, 0, 1]
    assert paper.worker.drawings[0].previews == 1


@pytest.mark.parametrize("form", ["url", "b64_json", None])
def test_a_stream_has_urls_only_where_they_are_asked_for(paper: Paper, form: str | None) -> None:
    ((kind, data),) = events(paper.post({**STREAM, "response_format": form}).text)
    assert kind == COMPLETED
    assert ("url" in data) is (form == "url")
    if form == "url":
        assert httpx.get(data["url"], trust_env=False, verify=False).content == base64.b64decode(data["b64_json"])


def test_without_stream_nobody_pays_for_previews(paper: Paper) -> None:
    assert paper.post({"prompt": "x", "partial_images": 3}).json()["data"]
    assert paper.worker.drawings[0].previews == 0


def test_a_form_can_stream(paper: Paper) -> None:
    fields = {"prompt": "x", "stream": "true", "partial_images": "2", "stream_progress": "false"}
    with paper.client() as client:
        answer = client.post("/api/images/edits", data=fields, files={"image": ("x", png(scene(50, 50)))})
    assert kinds(answer.text) == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"n": 11}, 400, "invalid_value"),
        ({"partial_images": 4}, 400, "invalid_value"),
        ({"model": "nonsense"}, 404, "model_not_found"),
        ({"image": "http://127.0.0.1:1/a.png"}, 400, "invalid_image"),
        ({"image": text(png(scene(32, 32))[:200])}, 400, "invalid_image"),
    ],
)
def test_what_can_be_refused_before_drawing_is_refused_with_a_status(
    paper: Paper, fields: dict[str, Any], status: int, code: str
) -> None:
    assert_api_error(paper.post({**STREAM, **fields}), status, code)
    assert not paper.worker.drawings


def test_a_full_queue_refuses_a_stream_with_a_status(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(queue_size=1)
    paper.worker.gate.clear()
    with open_stream(paper):
        eventually(lambda: paper.worker.drawings)
        assert_api_error(paper.post({**STREAM, "seed": 8}), 429, "queue_full")


def test_a_failure_after_the_headers_is_the_last_event(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()  # a death is remembered
    paper.worker.failure = WorkerLost("It died.")
    answer = post_and_then_open_the_gate(paper)
    assert answer.status_code == 200
    *_, (kind, data) = events(answer.text)
    assert kind == "error"
    assert set(data) == {"type", "error"}
    assert (data["error"]["code"], data["error"]["type"], data["error"]["param"]) == (
        "worker_lost",
        "server_error",
        None,
    )
    assert answer.headers["x-request-id"] in data["error"]["message"]


def test_the_openai_client_raises_what_a_stream_ends_with(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()  # a death is remembered
    paper.worker.failure = WorkerLost("It died.")
    paper.worker.gate.clear()
    with openai.OpenAI(base_url=f"{paper.url}/v1", api_key="x", max_retries=0) as client:
        stream = client.images.generate(prompt="x", stream=True)  # returns with the headers
        paper.worker.gate.set()
        with pytest.raises(openai.APIError, match="It died"):
            list(stream)


def test_an_unforeseen_failure_says_nothing_of_itself(paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("canary <object at 0x7f00>")

    monkeypatch.setattr("server.api.generation.make_outcome", fails)
    answer = post_and_then_open_the_gate(paper)
    ((kind, data),) = events(answer.text)
    assert (kind, data["error"]["code"]) == ("error", "internal_error")
    assert "canary" not in answer.text


def test_silence_is_broken_by_comments(paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.api.stream.KEEP_ALIVE_S", 0.05)
    paper.worker.gate.clear()
    threading.Timer(0.5, paper.worker.gate.set).start()
    answer = paper.post(STREAM)
    assert 3 <= answer.text.count(": keep-alive\n\n") <= 12
    assert kinds(answer.text) == [COMPLETED]


def test_who_waits_is_told_the_place_that_it_has(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(running_jobs=1)
    paper.worker.gate.clear()
    queue = paper.app.state.services.queue

    def stands(held: int, queued: int) -> bool:
        return (queue.held, queue.queued) == (held, queued)

    with ThreadPoolExecutor(3) as pool:
        asked = []
        for seed in range(3):
            asked.append(pool.submit(paper.post, {**STREAM, "stream_progress": True, "seed": seed}))
            eventually(functools.partial(stands, seed + 1, seed))
        time.sleep(0.3)
        paper.worker.gate.set()
        answers = [future.result(20) for future in asked]
    places = [
        [data["place"] for kind, data in events(answer.text) if kind == "darkroom.progress"] for answer in answers
    ]
    assert places[0][0] == 0
    assert places[1][0] == 1
    assert places[2][0] == 2
    assert all(told[-1] == 0 for told in places)
    assert all(kinds(answer.text)[-1] == COMPLETED for answer in answers)


def test_draining_ends_a_waiting_stream_with_an_error_and_lets_a_running_one_finish(
    paper_servers: PaperServers,
) -> None:
    paper = paper_servers.open(running_jobs=1)
    paper.worker.gate.clear()
    queue = paper.app.state.services.queue
    route = "/v1/images/generations"
    with paper.client() as client, client.stream("POST", route, json=STREAM) as running:
        eventually(lambda: queue.held == 1)
        with client.stream("POST", route, json={**STREAM, "seed": 8}) as waiting:
            eventually(lambda: queue.queued == 1)
            queue.drain()  # the headers of both are out: before that, it would be a 503
            told = events(waiting.read().decode())
        paper.worker.gate.set()
        ran = running.read().decode()
    assert [(kind, data["error"]["code"]) for kind, data in told] == [("error", "draining")]
    assert kinds(ran) == [COMPLETED]


def test_a_client_that_leaves_ends_the_job(paper: Paper) -> None:
    paper.worker.gate.clear()
    with open_stream(paper) as connection:
        eventually(lambda: paper.worker.drawings)
        connection.recv(10)  # the headers are out
    eventually(lambda: paper.worker.cancelled == [paper.worker.drawings[0].job_id])
    eventually(lambda: paper.app.state.services.queue.held == 0)


def test_a_slow_reader_holds_up_nobody_loses_previews_and_gets_its_pictures(paper: Paper) -> None:
    """Ten pictures with three previews of 1 MiB each: 30 MiB of previews, of which a feed keeps 16."""
    paper.worker.ballast = 1 << 20
    queue = paper.app.state.services.queue
    with open_stream(paper, n=10, partial_images=3) as connection:
        eventually(lambda: paper.worker.drawings)
        eventually(lambda: queue.held == 0)  # done, though nothing has been read
        time.sleep(0.2)
        paper.worker.ballast = 0
        assert paper.post({"prompt": "another"}).status_code == 200
        found = read_events(connection)
    assert 1 <= found.count(PARTIAL) <= 20
    assert found[-10:] == [COMPLETED] * 10


def test_a_reader_that_takes_nothing_is_cut_off(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(write_timeout_s=0.4)
    paper.worker.ballast = 4 << 20
    with open_stream(paper, n=4) as connection:
        eventually(lambda: paper.worker.drawings)
        time.sleep(1.5)
        found = read_events(connection)
    assert found.count(COMPLETED) <= 1


def test_nor_does_one_keep_its_connection_with_the_end_of_an_answer(
    paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing is not paused for less than 64 KiB, and a connection that is closed waits for them to leave."""
    connection_made = DeadlineProtocol.connection_made

    def without_pauses(protocol: DeadlineProtocol, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=1 << 30)
        connection_made(protocol, transport)

    monkeypatch.setattr(DeadlineProtocol, "connection_made", without_pauses)
    paper = paper_servers.open(write_timeout_s=0.4)
    paper.worker.ballast = 8 << 20
    with open_stream(paper) as connection:
        eventually(lambda: paper.worker.drawings)
        time.sleep(1.5)
        taken = 0
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 20):
                taken += len(piece)
    assert taken < paper.worker.ballast


def test_a_slow_reader_that_reads_is_not_cut_off(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(write_timeout_s=0.5)
    paper.worker.ballast = 3 << 20
    with open_stream(paper, receive_bytes=1 << 20) as connection:
        raw = bytearray()
        started = time.monotonic()
        while not raw.endswith(b"\r\n0\r\n\r\n"):
            piece = connection.recv(256 << 10)
            assert piece, "cut off"
            raw += piece
            time.sleep(0.1)
    assert time.monotonic() - started > 1
    assert raw.count(b"event: " + COMPLETED.encode()) == 1
