from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from server.edge.connections import Connections
from server.edge.deadlines import LEANS_ON, MAX_HEAD_BYTES, protocol_with_deadlines
from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.unit.edge.live import Live, parse, read_all, read_answer, serve, settings_for
from tests.unit.edge.rooms import make_app

PING = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
TIMEOUT_S = 0.5


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = settings_for(tmp_path_factory.mktemp("data"), header_timeout_s=TIMEOUT_S)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live:
        yield live


def test_uvicorn_still_has_what_this_leans_on() -> None:
    """If this fails after an upgrade: read its httptools_impl.py, then server/edge/deadlines.py."""
    for name in LEANS_ON["methods"]:
        assert inspect.isfunction(getattr(HttpToolsProtocol, name, None)), f"uvicorn lost HttpToolsProtocol.{name}"
    config = uvicorn.Config(lambda: None, log_config=None)
    protocol = HttpToolsProtocol(config, ServerState(), {}, _loop=object())  # type: ignore[arg-type]
    for name in LEANS_ON["attributes"]:
        assert hasattr(protocol, name), f"uvicorn lost HttpToolsProtocol().{name}"
    assert "self.response_complete = False" in inspect.getsource(RequestResponseCycle.__init__)
    assert list(inspect.signature(HttpToolsProtocol.send_400_response).parameters) == ["self", "msg"]
    assert "self.send_400_response(" in inspect.getsource(HttpToolsProtocol.data_received)


def test_two_servers_keep_their_own_deadlines(tmp_path: Path) -> None:
    one = protocol_with_deadlines(settings_for(tmp_path, header_timeout_s=1))
    two = protocol_with_deadlines(settings_for(tmp_path, header_timeout_s=2))
    assert (one.header_timeout_s, two.header_timeout_s) == (1, 2)  # type: ignore[attr-defined]


def test_connections_count_where_the_metrics_look(tmp_path: Path) -> None:
    """An empty count of connections is false, so another took its place: the metrics said 0 for ever."""
    counted = Connections(16)
    assert vars(protocol_with_deadlines(settings_for(tmp_path), counted))["counted"] is counted


def test_silence_is_closed_without_a_word(live: Live) -> None:
    with live.connect() as connection:
        began = time.monotonic()
        assert read_all(connection) == b""
        assert 0.4 < time.monotonic() - began < 5


@pytest.mark.parametrize("start", [b"", b"GET /livez HTTP/1.1\r\n", PING])
def test_a_head_that_drips_is_refused(live: Live, start: bytes) -> None:
    with live.connect() as connection:
        connection.sendall(start)
        if start == PING:  # the second request of a connection has the same deadline
            assert read_answer(connection).status_code == 200
        began = time.monotonic()
        for byte in b"GET":  # the start of a request, and as good as the start of a header
            connection.sendall(bytes([byte]))
            time.sleep(0.1)
        answer = parse(read_all(connection))
        assert time.monotonic() - began < 5
    assert_api_error(answer, 408, "request_timeout")
    assert answer.headers["connection"] == "close"


def test_blank_lines_between_requests_do_not_hold_a_connection(live: Live) -> None:
    """uvicorn's keep-alive timer ends with the first byte of anything, and a blank line starts no request."""
    with live.connect() as connection:
        connection.sendall(PING)
        assert read_answer(connection).status_code == 200
        connection.sendall(b"\r\n")
        began = time.monotonic()
        read_all(connection)
        assert time.monotonic() - began < 4.5


def test_keep_alive_outlives_the_header_deadline(live: Live) -> None:
    with live.connect() as connection:
        for _ in range(3):
            connection.sendall(PING)
            assert read_answer(connection).status_code == 200
            time.sleep(TIMEOUT_S + 0.2)  # idle: uvicorn's own keep-alive time rules here


def test_pipelined_requests_are_answered_in_order(live: Live) -> None:
    with live.connect() as connection:
        connection.sendall(PING * 3 + b"GET /v1/models/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        raw = read_all(connection)
    assert raw.count(b"HTTP/1.1 200") == 4
    assert raw.endswith(b'{"id":"last"}')


def test_half_a_pipelined_request_does_not_cut_the_answer_before_it(live: Live) -> None:
    with live.connect() as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\nGET /li")
        raw = read_all(connection)  # the stream lasts as long as the deadline; then the half request has one more
    assert raw.count(b"data: ") == 3
    assert b"HTTP/1.1 408" in raw


def test_a_slow_answer_is_not_a_slow_head(live: Live) -> None:
    with live.client() as client, client.stream("GET", "/stream") as answer:
        began = time.monotonic()
        arrivals = [time.monotonic() - began for _ in answer.iter_text()]
    assert len(arrivals) == 3
    assert arrivals[-1] - arrivals[0] > 0.2  # and it was not buffered


ENDLESS = {
    "path": b"GET /" + b"x" * (MAX_HEAD_BYTES + 1) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "value": b"GET /livez HTTP/1.1\r\nX: " + b"x" * 300_000,
    "headers": b"GET /livez HTTP/1.1\r\n" + b"X-Y: z\r\n" * 20_000 + b"\r\n",
    "names": b"GET /livez HTTP/1.1\r\n" + b"x" * 300_000,
}


@pytest.mark.parametrize("head", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_head_is_refused(live: Live, head: bytes) -> None:
    with live.connect() as connection:
        try:
            connection.sendall(head)
        except OSError:
            return  # closed on us while we still sent: refused well enough
        raw = read_all(connection)
    if raw:  # a reset may have taken the answer with it
        assert_api_error(parse(raw), 431, "too_large")


def test_a_large_body_is_no_large_head(live: Live) -> None:
    with live.client() as client:
        for _ in range(3):
            assert client.post("/read", content=b"x" * 1_000_000).json() == {"bytes": 1_000_000}
        assert client.get("/livez", headers={"x-big": "y" * 60_000}).status_code == 200


MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
]
SMUGGLED = b"POST /read HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("raw", [*MALFORMED, SMUGGLED], ids=range(5))
def test_what_is_not_http_gets_the_same_shape(live: Live, raw: bytes) -> None:
    with live.connect() as connection:
        connection.sendall(raw)
        assert_api_error(parse(read_all(connection)), 400, "invalid_value")
