"""JSON bodies: what they may become in memory is known before it is made."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from server.api.json_body import read_body
from server.errors import BadRequest, Busy
from server.jobs.budget import Budget, Hold
from tests.unit.edge.asgi import http_scope

MIB = 1024 * 1024


def read(body: bytes, *, limit: int = 1 << 40) -> dict[str, Any]:
    budget = Budget(limit)
    hold = Hold(budget, "ada")
    hold.take(len(body))
    Hold(budget, "ben").take(1)

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def go() -> dict[str, Any]:
        return await read_body(Request(http_scope("POST", state={"hold": hold}), receive), dict)

    try:
        return asyncio.run(go())
    finally:
        assert hold.size == len(body)


def test_millions_of_values_are_refused_before_they_are_made() -> None:
    """60 MiB of empty arrays became 1.5 GiB, in nine seconds in which nothing else was answered."""
    for value in (b"[],", b"{},", b"0,", b'"",', b"[[[[[[["):
        with pytest.raises(BadRequest, match="too many values"):
            read(b'{"x": [' + value * (8 * MIB // len(value)) + b"0]}")


def test_large_texts_beyond_ascii_are_refused() -> None:
    """One character of an emoji makes every other of its text four bytes long."""
    wide = ("\N{GRINNING FACE}" + "A" * 5 * MIB).encode()
    for text in (wide, b"\\ud83d\\ude00" + b"A" * 5 * MIB, b'\\"'.join([wide[: MIB // 2]] * 10)):
        with pytest.raises(BadRequest, match="beyond ASCII"):
            read(b'{"prompt": "x", "image": "' + text + b'"}')
    with pytest.raises(BadRequest, match="beyond ASCII"):
        read(b'{"image": [' + b",".join([b'"\\u4e00' + b"A" * 1000 + b'"'] * 6000) + b"]}")


def test_backslashes_are_counted_as_fast_as_they_arrive() -> None:
    """They were counted one by one: 40 MB of them held the interpreter for more than four seconds."""
    begun_s = time.process_time()
    with pytest.raises(BadRequest, match="beyond ASCII"):
        read('{"prompt": "é'.encode() + b"\\\\" * 16 * MIB + b'"}')
    assert time.process_time() - begun_s < 1.5


def test_what_programs_send_is_read() -> None:
    picture = b"A" * (20 * MIB)
    body = '{"prompt": "一个苹果 \\\\", "user": "\\"x\\"", "image": "'.encode() + picture + b'"}'
    assert read(body)["prompt"] == "一个苹果 \\"
    assert read(b'{"prompt": "' + b"\\u002b\\/" * MIB + b'"}')["prompt"] == "+/" * MIB
    assert len(read(b'{"prompt": "' + b"," * 100_000 + b'", "negative_prompt": "' + b'\\"' * 100_000 + b'"}')) == 2


def test_the_texts_in_it_need_room_too() -> None:
    body = b'{"image": "' + b"A" * MIB + b'"}'
    assert read(body, limit=2 * len(body) + 1)
    with pytest.raises(Busy):
        read(body, limit=2 * len(body))
