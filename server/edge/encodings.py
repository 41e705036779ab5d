"""Content encodings: a body sent with gzip or deflate is read as what it was before.

Knows zlib and bytes; knows nothing of what the body says. What comes out is bounded like what comes in, so that a
few kilobytes cannot become gigabytes: by the cap of every body, and, beyond the first mebibyte, by a ratio. It
comes out in pieces, between which the event loop serves others. Every other encoding is refused by name of those
that are read.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.edge.headers import values
from server.errors import BadRequest, TooLarge, UnsupportedEncoding

MAX_RATIO: Final = 100  # JSON of text shrinks to a tenth, base64 to three quarters
MIN_BOUNDED_BYTES: Final = 1024 * 1024  # below this the ratio does not count
MAX_MEMBERS: Final = 2048  # of a gzip body; bgzip makes one of each 64 KiB
_PIECE_BYTES: Final = 256 * 1024
_GZIP: Final = 16 + zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS


class ContentEncodings:
    """The layer that undoes the Content-Encoding of bodies."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        coding = _coding(scope) if scope["type"] == "http" else None
        if coding is None:
            await self.app(scope, receive, send)
            return
        gone = (b"content-encoding", b"content-length")
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in gone]
        body = _Body(receive, gzip=coding != "deflate", max_bytes=self._max_bytes)
        await self.app(scope, body.receive, send)


def _coding(scope: Scope) -> str | None:
    """The one encoding to undo; None where there is none. Raises UnsupportedEncoding."""
    tokens = b",".join(values(scope, b"content-encoding")).decode("latin-1").lower().split(",")
    named = [token.strip() for token in tokens if token.strip() not in ("", "identity")]
    if not named:
        return None
    if len(named) > 1 or named[0] not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedEncoding(
            "This Content-Encoding is not read here. Send the body as it is, or with gzip or deflate, once.",
        )
    return named[0]


class _Body:
    """One body, undone while it is read."""

    def __init__(self, receive: Receive, *, gzip: bool, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._gzip = gzip
        self._inflate = None if not gzip else zlib.decompressobj(_GZIP)
        self._members = 1
        self._waiting = b""  # arrived, not yet undone
        self._full = False  # the last piece was, so zlib may hold more
        self._arrived = False  # the last byte is here
        self._ended = False  # the app has had its last message
        self._in = self._out = 0

    async def receive(self) -> Message:
        if self._ended:
            return await self._receive()
        while True:
            if not self._waiting and not self._full and not self._arrived:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._waiting = message.get("body", b"")
                self._in += len(self._waiting)
                self._arrived = not message.get("more_body", False)
            else:
                await asyncio.sleep(0)  # others first
            piece = self._undo()
            self._ended = self._arrived and not self._waiting and not self._full
            if self._ended and self._in and not (self._inflate is not None and self._inflate.eof):
                raise BadRequest("The body ends before its Content-Encoding does.")
            if piece or self._ended:
                return {"type": "http.request", "body": piece, "more_body": not self._ended}

    def _undo(self) -> bytes:
        """The next piece."""
        if not self._waiting and not self._full:
            return b""
        if self._inflate is None:  # "deflate" is zlib's format by the standard, and bare in some programs
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if _is_zlib(self._waiting) else _RAW)
        elif self._inflate.eof:
            self._begin_member()
        try:
            piece = self._inflate.decompress(self._waiting, _PIECE_BYTES)
        except zlib.error:
            raise BadRequest("The body is not what its Content-Encoding says.") from None
        self._waiting = self._inflate.unused_data or self._inflate.unconsumed_tail
        self._full = len(piece) == _PIECE_BYTES and not self._inflate.eof
        self._out += len(piece)
        if self._out > self._max_bytes:
            raise TooLarge(f"The body, unpacked, is larger than {self._max_bytes} bytes, the most that is taken.")
        if self._out > MIN_BOUNDED_BYTES and self._out > MAX_RATIO * self._in:
            raise TooLarge(f"The body grows more than {MAX_RATIO} times when it is unpacked. Send it as it is.")
        return piece

    def _begin_member(self) -> None:
        """Go on behind the end of a member. Each costs time of its own, and millions fit into a body."""
        if not self._gzip:
            raise BadRequest("The body goes on after its Content-Encoding has ended.")
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise TooLarge(f"The body has more than {MAX_MEMBERS} gzip members. Send it as one.")
        self._inflate = zlib.decompressobj(_GZIP)


def _is_zlib(start: bytes) -> bool:
    """Does it begin like zlib's format (RFC 1950)?"""
    return start[0] & 0x0F == 8 and (len(start) < 2 or (start[0] << 8 | start[1]) % 31 == 0)
