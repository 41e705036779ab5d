"""Slow clients (uvicorn#157): sockets that drip must go, and honest clients must not notice them."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from server.edge.keys import Keyring
from tests.unit.edge.live import serve, settings_for
from tests.unit.edge.rooms import make_app

SOCKETS = 200
STARTS = {
    "silent": b"",
    "request line": b"GET /livez",
    "headers": b"GET /livez HTTP/1.1\r\nX-A: ",
    "body": b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
    "chunks": b"POST /pictures HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    "refused": b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
}


def drip(sockets: list[socket.socket], drop: Callable[[socket.socket], bytes]) -> list[socket.socket]:
    """One byte into each; what comes back is dropped. Returns those that are still open."""
    still = []
    readable, _, _ = select.select(sockets, [], [], 0)
    ready = set(readable)
    for one in sockets:
        try:
            if one in ready and one.recv(65536) == b"":
                continue
            one.sendall(drop(one))
        except OSError:
            continue
        still.append(one)
    return still


@pytest.mark.parametrize("ring", [{}, {"alice": "dk_alice"}], ids=["open", "keyed"])
def test_dripping_sockets_go_and_an_honest_client_does_not_notice(tmp_path: Path, ring: dict[str, str]) -> None:
    settings = settings_for(tmp_path, header_timeout_s=0.8, body_timeout_s=0.8)
    starts = list(STARTS.items())
    drops: dict[socket.socket, bytes] = {}
    with serve(make_app(settings, Keyring.in_memory(ring)), settings) as live, ExitStack() as stack:
        client = stack.enter_context(live.client(headers={"authorization": "Bearer dk_alice"}))
        for number in range(SOCKETS):
            kind, start = starts[number % len(starts)]
            one = stack.enter_context(live.connect())
            one.sendall(start)
            drops[one] = {"silent": b"", "chunks": b"1\r\n \r\n"}.get(kind, b"x")
        began = time.monotonic()
        open_ones, slowest_s = list(drops), 0.0
        while open_ones and time.monotonic() - began < 6:
            open_ones = drip(open_ones, lambda one: drops[one])
            asked = time.monotonic()
            assert client.post("/pictures", json={"prompt": "a cat"}).status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - asked)
            time.sleep(0.03)
    assert open_ones == []
    assert slowest_s < 3
