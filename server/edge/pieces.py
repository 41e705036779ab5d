"""Answers in pieces: each is made or copied when the client has taken the last.

Knows ASGI and flow control; knows nothing of what the bytes say. One large ``send`` returns at once and leaves all of
its bytes in the socket's buffer, where nobody counts them; after these, what the client has not taken is one piece.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.edge.answers import request_id_of
from server.errors import DarkroomError

log = logging.getLogger("darkroom.edge")

PIECE_BYTES = 128 * 1024
_UNCOUNTED_BYTES = 64 * 1024  # what a socket's buffer takes before its writer waits


async def send_pieces(send: Send, body: bytes, *, more: bool = False) -> None:
    """Send all of ``body``, and return when the client has taken it but for a few kilobytes."""
    view = memoryview(body)
    small = len(view) <= _UNCOUNTED_BYTES
    for start in () if small else range(0, len(view), PIECE_BYTES):
        await send({"type": "http.response.body", "body": bytes(view[start : start + PIECE_BYTES]), "more_body": True})
    # uvicorn waits before it writes: behind a large body, this returns once the last piece is on its way.
    await send({"type": "http.response.body", "body": body if small else b"", "more_body": more})


class WholeAnswer(Response):
    """A body that is in memory, which the request holds of the budget until it has been taken."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send_pieces(send, bytes(self.body))


class PiecedAnswer(Response):
    """A body of ``length`` bytes that is read as it is sent."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        length: int,
        *,
        status_code: int,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(
            status_code=status_code, media_type=media_type, headers={**headers, "Content-Length": str(length)}
        )
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._pieces):
            if scope["method"] == "HEAD":
                await super().__call__(scope, receive, send)
                return
            first = await anext(self._pieces, b"")  # what cannot be read at all is an error with a status
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await send_pieces(send, first, more=True)
                async for piece in self._pieces:
                    await send_pieces(send, piece, more=True)
            except DarkroomError as error:  # too late for one: unfinished, so that uvicorn cuts it off
                log.warning("cut off after %s", error.code, extra={"request_id": request_id_of(scope)})
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
