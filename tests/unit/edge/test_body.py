from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.edge.body import BodyLimit
from server.edge.keys import Keyring
from server.errors import SlowClient, TooLarge
from tests.assertions import assert_api_error
from tests.unit.edge.asgi import exchange, http_scope
from tests.unit.edge.live import Live, parse, read_all, read_answer, serve, settings_for
from tests.unit.edge.rooms import Witness, make_app

CAP = 4096
HEAD = b"POST /%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[tuple[Live, Witness]]:
    settings = settings_for(tmp_path, max_body_bytes=CAP, body_timeout_s=0.5)
    app = make_app(settings, Keyring.in_memory())
    with serve(app, settings) as live:
        yield live, app.state.witness


def test_a_body_of_exactly_the_cap_is_read(small_server: tuple[Live, Witness]) -> None:
    live, _ = small_server
    with live.client() as client:
        assert client.post("/read", content=b"x" * CAP).json() == {"bytes": CAP}
        assert client.post("/read", content=iter([b"x" * 96] * 42 + [b"x" * 64])).json() == {"bytes": CAP}
        assert client.post("/read").json() == {"bytes": 0}


def test_a_declared_length_over_the_cap_is_refused_before_a_byte(small_server: tuple[Live, Witness]) -> None:
    live, witness = small_server
    with live.connect() as connection:
        connection.sendall(HEAD % b"read" + b"Content-Length: 4097\r\n\r\n")
        answer = read_answer(connection)
    assert_api_error(answer, 413, "too_large")
    assert answer.headers["connection"] == "close"
    assert witness.entered == 0


@pytest.mark.parametrize("route", [b"read", b"pictures", b"swallow"])
def test_chunks_are_counted_as_they_arrive(small_server: tuple[Live, Witness], route: bytes) -> None:
    live, _ = small_server
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    with live.connect() as connection:
        connection.sendall(HEAD % route + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5)
        answer = read_answer(connection)
        assert_api_error(answer, 413, "too_large")
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("route", [b"read", b"pictures", b"swallow"])
@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\n"])
def test_a_body_that_stops_is_timed_out(small_server: tuple[Live, Witness], route: bytes, framing: bytes) -> None:
    live, _ = small_server
    with live.connect() as connection:
        began = time.monotonic()
        connection.sendall(HEAD % route + framing)
        answer = read_answer(connection)
        assert 0.4 < time.monotonic() - began < 5
    assert_api_error(answer, 408, "request_timeout")
    assert answer.headers["connection"] == "close"


def test_dripping_does_not_extend_the_deadline(small_server: tuple[Live, Witness]) -> None:
    live, _ = small_server
    with live.connect() as connection:
        began = time.monotonic()
        connection.sendall(HEAD % b"read" + b"Content-Length: 4000\r\n\r\n")
        for _ in range(8):
            connection.sendall(b"x")
            time.sleep(0.1)
        answer = read_answer(connection)
        assert time.monotonic() - began < 5
    assert_api_error(answer, 408, "request_timeout")


def test_the_deadline_ends_with_the_body(small_server: tuple[Live, Witness]) -> None:
    live, witness = small_server
    with live.connect() as connection:
        body = b'{"prompt": "x"}'
        connection.sendall(HEAD % b"work" + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.9)  # longer than the deadline: the work goes on
        assert witness.entered == 1
        assert not witness.cancelled
    deadline = time.monotonic() + 3
    while not witness.cancelled and time.monotonic() < deadline:  # and the disconnect comes through
        time.sleep(0.01)
    assert witness.cancelled


def test_expect_continue_is_asked_for_or_refused(small_server: tuple[Live, Witness]) -> None:
    live, _ = small_server
    with live.connect() as connection:
        connection.sendall(HEAD % b"read" + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"1234")
        assert read_answer(connection).json() == {"bytes": 4}
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(connection).status_code == 200
    with live.connect() as connection:
        connection.sendall(HEAD % b"read" + b"Expect: 100-continue\r\nContent-Length: 9999\r\n\r\n")
        assert_api_error(read_answer(connection), 413, "too_large")  # and no 100 before it
    with live.connect() as connection:
        connection.sendall(HEAD % b"read" + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        raw = read_all(connection)
        assert_api_error(parse(raw.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")), 408, "request_timeout")


# Without a socket


async def swallowing(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads all, whatever happens, and always answers 200; then fails."""
    for _ in range(5):
        try:
            await receive()
        except (TooLarge, SlowClient):
            continue
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})
    raise RuntimeError


def chunks(*sizes: int) -> list[Message]:
    return [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]


@pytest.mark.anyio
async def test_our_answer_replaces_the_apps_once() -> None:
    scope = http_scope("POST", headers=[(b"transfer-encoding", b"chunked")])
    sent = await exchange(BodyLimit(swallowing, max_bytes=10, timeout_s=5), scope, chunks(5, 5, 5))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 413


@pytest.mark.anyio
async def test_a_request_without_a_body_is_not_touched() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert receive.__qualname__.startswith("exchange")
        await send({"type": "http.response.start", "status": 204, "headers": []})

    assert (await exchange(BodyLimit(app, max_bytes=1, timeout_s=0.01), http_scope()))[0]["status"] == 204


@pytest.mark.anyio
@pytest.mark.parametrize("length", [b"9" * 30, b"-5", b"4, 4", b"\xb2"])
async def test_lengths_that_are_no_numbers_do_not_break_it(length: bytes) -> None:
    scope = http_scope("POST", headers=[(b"content-length", length)])
    sent = await exchange(BodyLimit(swallowing, max_bytes=10, timeout_s=5), scope, chunks(5, 5, 5))
    assert sent[0]["status"] == 413
