"""JSON bodies: read once, bounded, off the event loop.

Knows bytes and limits; knows no field. What a body becomes in memory must be known before it is made: 60 MiB of empty
arrays became 1.5 GiB of objects, made for 9 seconds in which nothing else ran. A large body here is pictures in base64,
so values are counted by their marks before anything is decoded, and only little of the text may be beyond ASCII, which
takes up to four bytes a character.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request

from server.api.off_loop import off_loop
from server.api.wire import read_json
from server.edge.body import chunks_of, hold_of
from server.errors import BadRequest

MAX_MARKS = 512 * 1024  # of , [ { and " in a body, also inside its texts: a prompt has 100,000 characters at most
MAX_WIDE_BYTES = 4 * 1024 * 1024  # of texts with characters beyond ASCII

_WIDE_ESCAPE = re.compile(rb"\\u(?!00[0-7])")  # some programs write + in base64 as an escape; that is ASCII

T = TypeVar("T")


async def read_body(request: Request, read: Callable[[dict[str, Any]], T]) -> T:
    """What ``read`` makes of the JSON object in a body. Raises BadRequest, and Busy where there is no room for it."""
    body = bytearray()  # grown, not joined: that would hold everything twice
    async for chunk in chunks_of(request):
        body += chunk
    hold = hold_of(request.scope)
    hold.take(len(body))  # the texts in it, beside the bytes that they are read from
    try:
        return await off_loop(len(body), lambda: read(_object(body)))
    finally:
        hold.give(len(body))


def _object(body: bytearray) -> dict[str, Any]:
    if sum(map(body.count, (b",", b"[", b"{", b'"'))) > MAX_MARKS:
        raise BadRequest("The body has too many values, or too much punctuation in its texts.")
    if len(body) > MAX_WIDE_BYTES and not (body.isascii() and b"\\u" not in body):
        _refuse_wide(body)
    return read_json(body)


def _refuse_wide(body: bytearray) -> None:
    """Raise BadRequest if too much of the body is texts with characters beyond ASCII."""
    wide, start = 0, 0
    while start < len(body):
        end = _end_of_text(body, start)
        text = body[start:end]
        if not text.isascii() or _WIDE_ESCAPE.search(text):
            wide += len(text)
        if wide > MAX_WIDE_BYTES:
            raise BadRequest(
                f"The texts of the body that have characters beyond ASCII are more than {MAX_WIDE_BYTES} bytes."
                " A picture in base64 has none."
            )
        start = end + 1


def _end_of_text(body: bytearray, start: int) -> int:
    """Where the next quotation mark is that no backslash escapes; else the end."""
    at = start
    while (found := body.find(b'"', at)) >= 0:
        backslashes = found
        while backslashes > start and body[backslashes - 1] == 0x5C:
            backslashes -= 1
        if (found - backslashes) % 2 == 0:
            return found
        at = found + 1
    return len(body)
