"""Big bodies (CVE-2026-42561, CVE-2024-9056): counted while they arrive, never held beyond the cap."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.unit.edge.live import read_answer, serve, settings_for
from tests.unit.edge.rooms import make_app

HEAD = b"POST /read HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
TINY = b"1\r\nx\r\n"


@pytest.mark.parametrize("count", [100_000, 1_000_000])
def test_tiny_chunks_are_read_in_linear_time(tmp_path: Path, count: int) -> None:
    settings = settings_for(tmp_path)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live, live.connect(60) as connection:
        began = time.monotonic()
        connection.sendall(HEAD + TINY * count + b"0\r\n\r\n")
        assert read_answer(connection).json() == {"bytes": count}
        assert time.monotonic() - began < count / 25_000 + 2


def test_tiny_chunks_over_the_cap_are_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, max_body_bytes=50_000)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live, live.connect() as connection:
        connection.sendall(HEAD + TINY * 100_000)
        answer = read_answer(connection)
        assert_api_error(answer, 413, "too_large")
        assert answer.headers["connection"] == "close"


def test_an_endless_body_without_a_length_is_cut_off(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, max_body_bytes=1_000_000)
    block = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with serve(make_app(settings, Keyring.in_memory()), settings) as live, live.connect() as connection:
        connection.sendall(HEAD)
        began, sent = time.monotonic(), 0
        try:
            while time.monotonic() - began < 20:
                connection.sendall(block)
                sent += len(block)
        except OSError:
            pass
        assert sent < 100_000_000
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "extra", [b"5\r\nhe", b"zz\r\n", b"-1\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"5;" + b"x" * 100_000]
)
def test_broken_chunks_do_not_hang_or_crash(tmp_path: Path, extra: bytes) -> None:
    settings = settings_for(tmp_path, body_timeout_s=0.5)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live:
        with live.connect() as connection:
            connection.sendall(HEAD + extra)
            assert connection.recv(65536)[9:12] in (b"400", b"408", b"")
        with live.client() as client:
            assert client.get("/livez").status_code == 200
