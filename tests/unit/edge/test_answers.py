from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from starlette.responses import Response

from server.edge.answers import answer, error_body, error_response
from server.edge.keys import Keyring
from server.errors import (
    ANSWERS,
    BadRequest,
    DarkroomError,
    DeadlineExceeded,
    Draining,
    QueueFull,
    ServerFault,
    SlowClient,
    Unauthorized,
)
from tests.assertions import assert_api_error
from tests.unit.edge.live import Live, serve, settings_for
from tests.unit.edge.rooms import make_app


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = settings_for(tmp_path_factory.mktemp("data"))
    with serve(make_app(settings, Keyring.in_memory()), settings) as live:
        yield live


def as_httpx(response: Response) -> httpx.Response:
    return httpx.Response(response.status_code, headers=dict(response.headers), content=bytes(response.body))


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_every_error_has_the_one_shape(kind: type[DarkroomError]) -> None:
    answer = ANSWERS[kind]
    response = as_httpx(error_response(kind("It went wrong.", param="image"), "req_1"))
    error = assert_api_error(response, answer.status, answer.code)
    assert error["type"] == answer.type
    assert error["param"] == "image"
    assert response.headers["x-should-retry"] == ("true" if answer.retry else "false")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (QueueFull("x", retry_after_s=2.1), "3"),
        (QueueFull("x", retry_after_s=0.0), "1"),
        (QueueFull("x"), "1"),
        (Draining("x"), "5"),
        (QueueFull("x", retry_after_s=float("inf")), None),
        (DeadlineExceeded("x"), None),  # a repeat would fail again: inviting one contradicts x-should-retry
        (BadRequest("x"), None),
    ],
)
def test_retry_after_is_whole_seconds_rounded_up(error: DarkroomError, expected: str | None) -> None:
    assert error_response(error, "req_1").headers.get("retry-after") == expected


def test_particular_headers() -> None:
    assert error_response(Unauthorized("x"), "r").headers["www-authenticate"] == "Bearer"
    assert error_response(SlowClient("x"), "r").headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/sdapi/v1/txt2img", "/internal/ping", "/controlnet/model_list"])
def test_automatic1111s_clients_are_told_in_their_words(path: str) -> None:
    scope = {"type": "http", "path": path, "state": {"request_id": "req_1"}}
    refused = answer(Unauthorized("No API key."), scope, {"x-more": "1"})
    body = json.loads(bytes(refused.body))
    assert body["detail"] == body["error"]["message"] == "No API key."
    assert refused.headers["www-authenticate"].startswith("Basic realm=")
    assert (refused.headers["x-request-id"], refused.headers["x-more"]) == ("req_1", "1")


def test_nobody_else_is() -> None:
    for path in ("/v1/images/generations", "/sdapi", "/v1/sdapi/v1/options"):
        refused = answer(Unauthorized("No API key."), {"type": "http", "path": path, "state": {"request_id": "req_1"}})
        assert set(json.loads(bytes(refused.body))) == {"error"}
        assert refused.headers["www-authenticate"] == "Bearer"


def test_only_our_own_faults_carry_the_request_id_in_their_text() -> None:
    assert "req_9" in error_body(ServerFault("Broken."), "req_9")["error"]["message"]
    assert "req_9" not in error_body(BadRequest("Wrong."), "req_9")["error"]["message"]


def test_a_lone_surrogate_in_a_message_is_still_an_answer() -> None:
    body = error_response(BadRequest("\ud800", param="\udfff"), "r").body
    assert json.loads(bytes(body))["error"]["message"] == "\ud800"


def test_failures_of_the_framework_take_the_shape(live: Live) -> None:
    with live.client() as client:
        assert_api_error(client.get("/nowhere"), 404, "not_found")
        wrong = client.delete("/pictures")
        assert_api_error(wrong, 405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST, OPTIONS"
        assert client.get("/livez/").status_code == 200  # and no redirect built from Host
        assert_api_error(client.get("/nowhere/"), 404, "not_found")
        assert assert_api_error(client.get("/fail/image"), 400, "invalid_image")["param"] == "image"
        full = client.get("/fail/queue")
        assert_api_error(full, 429, "queue_full")
        assert full.headers["retry-after"] == "3"
        broken = client.get("/fail/accident")
        assert_api_error(broken, 500, "internal_error")
        assert broken.headers["x-request-id"] in broken.text
        assert "canary" not in broken.text


BROKEN_BODIES = [
    (b'{"prompt": "canary", "n": NaN}', "n"),
    (b'{"prompt": "canary", "n": 0}', "n"),
    (b'{"prompt": "canary", "n": 1e400}', "n"),
    (b'{"prompt": "canary", "guidance": NaN}', "guidance"),
    (b'{"prompt": "canary", "guidance": -Infinity}', "guidance"),
    (b'{"prompt": "canary", "quality": "canary"}', "quality"),
    (b'{"prompt": "canary", "steps": "canary"}', "steps"),
    (b'{"prompt": "\\ud800canary", "n": 0}', "n"),  # a lone surrogate in the echo made a stock 500
    (b'{"prompt": "x", "quality": "\\ud800canary"}', "quality"),
    (b'{"prompt": ["canary"]}', "prompt"),
    (b'{"n": 1, "canary": 2}', "prompt"),
    (b'{"prompt": "canary", "n": ' + b"9" * 5000 + b"}", None),
    (b'{"prompt": "canary', None),
    (b"\xff\xfecanary", None),
    (b"[" * 100_000, None),
    (b"canary", None),
]


@pytest.mark.parametrize(("body", "param"), BROKEN_BODIES, ids=range(len(BROKEN_BODIES)))
def test_a_body_that_breaks_a_rule_is_named_and_never_echoed(live: Live, body: bytes, param: str | None) -> None:
    with live.client() as client:
        answer = client.post("/pictures", content=body, headers={"content-type": "application/json"})
        assert assert_api_error(answer, 400, "invalid_value")["param"] == param
        assert "canary" not in answer.text


def test_without_a_content_type_nothing_is_echoed_either(live: Live) -> None:
    with live.client() as client:
        answer = client.post("/pictures", content=b"canary")
        assert_api_error(answer, 400, "invalid_value")
        assert "canary" not in answer.text
