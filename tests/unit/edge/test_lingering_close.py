from __future__ import annotations

import time
from pathlib import Path

from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.unit.edge.live import read_answer, serve, settings_for
from tests.unit.edge.rooms import make_app

RING = {"alice": "dk_right"}


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def test_a_small_body_that_is_here_already_keeps_the_connection(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with serve(make_app(settings, Keyring.in_memory(RING)), settings) as live, live.connect() as connection:
        for _ in range(3):
            connection.sendall(head("/pictures", "Content-Length: 5") + b"hello")
            answer = read_answer(connection)
            assert_api_error(answer, 401, "invalid_api_key")
            assert "connection" not in answer.headers


def test_an_unfinished_body_closes_the_connection(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with serve(make_app(settings, Keyring.in_memory(RING)), settings) as live, live.connect() as connection:
        connection.sendall(head("/pictures", "Content-Length: 500") + b"hello")
        answer = read_answer(connection)
        assert_api_error(answer, 401, "invalid_api_key")
        assert answer.headers["connection"] == "close"
        began = time.monotonic()
        assert connection.recv(1) == b""  # lingers, then closes, though the body never ends
        assert 1 < time.monotonic() - began < 10


def test_the_answer_survives_a_client_that_sends_all_before_it_reads(tmp_path: Path) -> None:
    """Closing at once would reset the connection and lose the answer: 8 MB do not fit in the buffers."""
    settings = settings_for(tmp_path, max_body_bytes=1024)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live, live.connect() as connection:
        connection.sendall(head("/pictures", "Content-Length: 8000000") + b"x" * 8_000_000)
        assert_api_error(read_answer(connection), 413, "too_large")


def test_a_route_that_ignores_its_body_does_not_leave_it_dripping(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live, live.connect() as connection:
        connection.sendall(head("/ignore", "Transfer-Encoding: chunked") + b"1\r\nx\r\n")
        answer = read_answer(connection)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_a_client_that_leaves_ends_the_lingering(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, max_body_bytes=1024)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live:
        with live.connect() as connection:
            connection.sendall(head("/pictures", "Content-Length: 8000"))
            read_answer(connection)
        began = time.monotonic()
    assert time.monotonic() - began < 1.9  # the server had nothing left to wait for
