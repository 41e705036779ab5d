"""Memory: a real front process, attacked, grows by no more than its budget and what lies beside it (docs/limits.md)."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

import pytest

from tests.hostile.front import MIB, start
from tests.hostile.memory import ATTACKS, EDITS, FORM, GENERATIONS, form, harm, part
from tests.running import eventually

BUDGET = 512 * MIB
BESIDE = 96 * MIB  # what the allocator keeps, and copies for the length of one call

# Each by what one client could do with it before anything was counted.
MOST = {
    "json_values": 64 * MIB + BESIDE,  # 1.5 GiB, and nothing was answered for nine seconds
    "json_picture": 2 * 64 * MIB + BESIDE,  # 240 MiB
    "uploads": 10 * 20 * MIB + BESIDE,  # 595 MiB in /tmp
    "bodies": BUDGET // 2 + BESIDE,  # 1.7 GiB
    "unread_files": 150 * 256 * 1024 + BESIDE,  # 1.8 GiB, without a key
    "unread_replays": BUDGET + BESIDE,  # 1.2 GiB
    "references": 700 * MIB,  # 1.5 GiB: one picture of 50 megapixels while it is decoded, not eight
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_memory_is_bounded_whatever_a_client_does(attack: str) -> None:
    found = harm(attack)
    assert found.bytes < MOST[attack], f"{found.bytes / MIB:.0f} MiB"
    assert found.silent_s < 4, "nobody else was answered meanwhile"  # alone well under 1 s; machines that test are busy


def test_a_part_over_its_limit_leaves_nothing_on_the_disk() -> None:
    body = form(part("prompt", b"x"), part("image", bytes(30 * MIB), filename="a.png"))
    with start() as front, front.client() as client:
        answer = client.post(EDITS, content=body, headers=FORM)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_one_who_reads_nothing_neither_keeps_a_place_in_the_queue_nor_the_memory_for_ever() -> None:
    """A permit came back when its picture was made, but its bytes were held, uncounted, as long as the reader liked."""
    body = json.dumps({"prompt": "x", "response_format": "b64_json"}).encode()
    request = (
        f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    limits: dict[str, Any] = {"queue_size": 2, "max_body_bytes": 8 * MIB, "max_held_bytes": 64 * MIB}
    with start(ballast=20 * MIB, write_timeout_s=3, **limits) as front, contextlib.ExitStack() as stack:
        for _ in range(2):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", front.port))
            one.sendall(request)
        client = stack.enter_context(front.client())

        def refused() -> str:
            answer = client.post(GENERATIONS, json={"prompt": "y", "response_format": "url"})
            return str(answer.json()["error"]["code"]) if answer.status_code == 429 else ""

        # Both permits are back; what keeps others out is the bytes, and only until the readers are given up.
        eventually(lambda: refused() == "busy", within_s=20)
        time.sleep(0.1)
        eventually(lambda: client.post(GENERATIONS, json={"prompt": "y"}).status_code == 200, within_s=20, every_s=0.5)


@pytest.mark.parametrize("stream", [False, True])
def test_the_permit_of_a_slow_reader_is_another_ones(stream: bool) -> None:
    """A queue of one: while its first client reads nothing of a large answer, the next is drawn."""
    body = json.dumps({"prompt": "x", "response_format": "b64_json", "stream": stream}).encode()
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with start(ballast=20 * MIB, queue_size=1) as front, socket.socket() as slow, front.client() as client:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", front.port))
        slow.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert slow.recv(12) == b"HTTP/1.1 200"
        answer = client.post(GENERATIONS, json={"prompt": "y", "response_format": "url"})
        assert answer.status_code == 200, answer.text


def test_headers_count_more_than_their_letters() -> None:
    """A head of 64 KiB was 16,000 empty headers, which are two megabytes of objects for each connection."""
    with start() as front, socket.create_connection(("127.0.0.1", front.port)) as one:
        one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 5000 + b"\r\n")
        assert one.recv(12) == b"HTTP/1.1 431"
