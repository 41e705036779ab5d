"""The lingering close: an answer given before the body has arrived closes the connection, but not at once.

Knows HTTP connections; knows nothing of why the answer came early (no key, too large, too slow). Without
this, two things go wrong. uvicorn keeps such a connection and reads the rest of the body without a limit
or a deadline. And closing a socket while bytes still arrive resets it, which can destroy the answer before
the client reads it. So the answer says ``connection: close``, and the rest of the body is read and thrown
away for a moment before the connection goes.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.edge.headers import announces_body, waits_for_continue

LINGER_S = 2.0
LINGER_BYTES = 16 * 1024 * 1024


class LingeringClose:
    """The layer that closes connections whose request has not been read."""

    def __init__(self, app: ASGIApp, *, linger_s: float = LINGER_S) -> None:
        self.app = app
        self.linger_s = linger_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not announces_body(scope):
            await self.app(scope, receive, send)
            return
        answer = _EarlyAnswer(receive, send, linger_s=self.linger_s, held_back=waits_for_continue(scope))
        await self.app(scope, answer.receive, answer.send)


class _EarlyAnswer:
    """One exchange whose answer may come before its body; what is left of that is read and thrown away."""

    def __init__(self, receive: Receive, send: Send, *, linger_s: float, held_back: bool) -> None:
        self._receive = receive
        self._send = send
        self._linger_s = linger_s
        self._held_back = held_back  # the client waits for a 100 Continue, which reading would send
        self._readers = 0
        self._arrived = False
        self._left = False
        self._closing = False

    async def receive(self) -> Message:
        if self._left:
            return {"type": "http.disconnect"}
        self._readers += 1
        try:
            message = await self._receive()
        finally:
            self._readers -= 1
        if message["type"] == "http.disconnect":
            self._left = True
        elif not message.get("more_body", False):
            self._arrived = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._arrived:
            if not self._held_back:
                await self._discard(0.0)  # a small body is often here already: then the connection can stay
            if not self._arrived:
                self._closing = True
                others = [pair for pair in message.get("headers", []) if pair[0].lower() != b"connection"]
                message["headers"] = [*others, (b"connection", b"close")]
        elif message["type"] == "http.response.body" and self._closing and not message.get("more_body", False):
            await self._send({**message, "more_body": True})  # all of the answer is out; the end is not
            await self._discard(self._linger_s)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _discard(self, wait_s: float) -> None:
        """Read and forget the body until its end, the client's, ``wait_s`` or LINGER_BYTES."""
        if self._readers:  # somebody is reading; two readers of one stream would lose messages
            return
        seen = 0
        try:
            async with asyncio.timeout(wait_s):
                while not self._arrived and not self._left and seen <= LINGER_BYTES:
                    seen += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
