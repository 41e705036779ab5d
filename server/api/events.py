"""Server-sent events: their bytes, and a response that sends them as they come.

Knows framing, clients that leave and answers that fail half-way; knows nothing of what the events say. A slow reader
only holds back its own events: the next is made when the last has been taken.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.edge.answers import draining, error_body, internal_error, log_unforeseen, request_id_of
from server.edge.disconnect import unless_disconnected
from server.edge.pieces import send_pieces
from server.errors import DarkroomError

KEEP_ALIVE_S = 10.0
_LAST_WORD_S = 1.0  # for a reader to take the event that says that the server goes
KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # or nginx collects the events
}

Events = AsyncGenerator[bytes, None]


async def event(kind: str, body: Mapping[str, Any]) -> bytes:
    """One event. Pictures' bytes become base64, on a thread."""
    return await anyio.to_thread.run_sync(_event, kind, body)


def _event(kind: str, body: Mapping[str, Any]) -> bytes:
    data = msgspec.json.encode({"type": kind, **body})  # has no line breaks
    return b"".join((b"event: ", kind.encode(), b"\ndata: ", data, b"\n\n"))


class EventStream(Response):
    """A response that sends what ``events`` yields. It closes ``subscription`` at the end, even before any event.

    A failure, once the headers are out, is an event too: the last.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events, subscription: AbstractContextManager[object]) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._subscription:
            async with contextlib.aclosing(self._events):
                try:
                    await unless_disconnected(Request(scope, receive), self._send(scope, send))
                except asyncio.CancelledError:  # the server's time to drain is over
                    async with asyncio.timeout(_LAST_WORD_S):
                        await self._end_with(draining(), scope, send)

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self._events:
                await send_pieces(send, chunk, more=True)
        except Exception as error:
            known = error if isinstance(error, DarkroomError) else internal_error()
            if known is not error:
                log_unforeseen(error, request_id_of(scope))
            await self._end_with(known, scope, send)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end_with(self, error: DarkroomError, scope: Scope, send: Send) -> None:
        last = _event("error", error_body(error, request_id_of(scope)))
        await send({"type": "http.response.body", "body": last, "more_body": False})
