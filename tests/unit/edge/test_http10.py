"""HTTP/1.0: wget of old, health checks and embedded programs speak it, and know no chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse

from server.edge.keys import Keyring
from tests.unit.edge.live import Live, parse, read_all, read_answer, serve, settings_for
from tests.unit.edge.rooms import make_app


def app_for(folder: Path) -> FastAPI:
    app = make_app(settings_for(folder), Keyring.in_memory())

    @app.get("/empty")
    async def empty() -> Response:
        return Response(status_code=204)

    @app.get("/framed")
    async def framed() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            await asyncio.sleep(0)
            yield b"two"

        return StreamingResponse(parts(), headers={"transfer-encoding": "chunked"})

    return app


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("data")
    with serve(app_for(folder), settings_for(folder)) as live:
        yield live


def ask(live: Live, line: bytes, *headers: bytes) -> bytes:
    with live.connect() as connection:
        connection.sendall(b"\r\n".join([line, b"Host: localhost", *headers, b"", b""]))
        return read_all(connection)


@pytest.mark.parametrize("headers", [(), (b"Connection: keep-alive",)])
def test_a_stream_ends_with_its_connection(live: Live, headers: tuple[bytes, ...]) -> None:
    """It came in chunks, whose lengths such a client takes for part of the answer."""
    raw = ask(live, b"GET /stream HTTP/1.0", *headers)
    answer = parse(raw)
    assert "transfer-encoding" not in answer.headers
    assert b"content-length" not in raw
    assert answer.headers["connection"] == "close"
    assert answer.content == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_what_an_app_frames_itself_is_not_framed(live: Live) -> None:
    answer = parse(ask(live, b"GET /framed HTTP/1.0"))
    assert "transfer-encoding" not in answer.headers
    assert answer.content == b"onetwo"


def test_http_1_1_keeps_its_chunks(live: Live) -> None:
    raw = ask(live, b"GET /stream HTTP/1.1", b"Connection: close")
    assert b"transfer-encoding: chunked" in raw
    assert raw.endswith(b"\r\n0\r\n\r\n")


def test_answers_of_known_length_are_as_ever(live: Live) -> None:
    assert parse(ask(live, b"GET /livez HTTP/1.0")).json() == {"ok": True}
    for line in (b"HEAD /stream HTTP/1.0", b"HEAD /livez HTTP/1.0", b"GET /empty HTTP/1.0"):
        answer = parse(ask(live, line))
        assert (answer.is_success, answer.content) == (True, b""), line
    assert parse(ask(live, b"GET /fail/queue HTTP/1.0")).status_code == 429
    assert ask(live, b"GET /broken-stream HTTP/1.0").endswith(b"data: 1\n\n")


def test_an_expectation_of_http_1_0_is_ignored(live: Live) -> None:
    """RFC 9110, 10.1.1: the client would take 100 Continue for the answer."""
    with live.connect() as connection:
        connection.sendall(b"POST /read HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n1234")
        assert parse(read_all(connection)).json() == {"bytes": 4}


def test_a_request_behind_one_of_http_1_0_does_not_spoil_it(live: Live) -> None:
    with live.connect() as connection:
        connection.sendall(b"GET /stream HTTP/1.0\r\n\r\nGET /livez HTTP/1.0\r\n\r\n")
        assert read_all(connection).endswith(b"data: 2\n\n")


def test_a_target_in_absolute_form_is_the_same(live: Live) -> None:
    """Proxies send it (RFC 9112, 3.2.2); one without a path was no HTTP request."""
    for target in (b"http://localhost/livez", b"http://localhost//livez/", b"http://localhost", b"http://localhost?x"):
        with live.connect() as connection:
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(connection).json() == {"ok": True}, target
