"""The body limit: a body has a cap in bytes, a place in the budget and a deadline, all checked while it is read.

Knows bytes and time; knows nothing of what the body says, and never holds it. Nothing is read before the
route asks for it, so the layers outside this one refuse without reading. After the last byte ``receive``
is the server's own again: http.disconnect comes through, and no deadline runs.

What a request holds of the budget of bytes it holds until its answer has been handed over: a body whose length is
declared takes its place before a byte is read, any other as it arrives. Routes take more for what they make of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.edge.answers import answer
from server.edge.headers import announces_body, declared_length
from server.errors import Busy, DarkroomError, SlowClient, TooLarge
from server.jobs.budget import Budget, Hold

_STRANGERS = ""  # who has no key shares one principal


class BodyLimit:
    """The layer that counts and times bodies."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float, budget: Budget | None = None) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s
        self.budget = budget or Budget(2 * max_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        principal = scope.setdefault("state", {}).get("principal")
        with self.budget.hold(_STRANGERS if principal is None else principal.id) as hold:
            scope["state"]["hold"] = hold
            if announces_body(scope):
                await self._guarded(scope, receive, send)
            else:
                await self.app(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = declared_length(scope) or 0
        if declared > self.max_bytes:
            raise _too_large(self.max_bytes)
        hold = hold_of(scope)
        hold.take(declared)
        guard = _Guard(scope, receive, send, self.max_bytes, self.timeout_s)
        try:
            await self.app(scope, guard.receive, guard.send)
        except Exception:
            if guard.failure is None:
                raise
            if not guard.answered:  # the app's own exception is only the echo of ours
                raise guard.failure from None


def hold_of(scope: Scope) -> Hold:
    """What this request holds of the budget of bytes. Whatever is made for it is taken here before it is made."""
    return cast(Hold, scope["state"]["hold"])


async def chunks_of(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises Busy where it becomes more, by its Content-Encoding, than there is room for."""
    hold, seen = hold_of(request.scope), 0
    async for chunk in request.stream():
        seen += len(chunk)
        hold.take(seen - hold.size)
        yield chunk


class _Guard:
    """Counts and times one body; once it has failed, our answer replaces whatever the app says."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_bytes: int, timeout_s: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadline: float | None = None  # loop time; runs from the first read
        self._hold = hold_of(scope)
        self._bytes = 0
        self._counted = declared_length(scope) or 0  # bytes that are held
        self._arrived = False
        self._begun = False
        self.failure: DarkroomError | None = None
        self.answered = False

    async def receive(self) -> Message:
        if self._arrived:
            return await self._receive()
        if self.failure is not None:
            raise self.failure
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.failure = SlowClient(f"The body did not arrive within {self._timeout_s:g} seconds.")
            raise self.failure from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._arrived = not message.get("more_body", False)
            if self._bytes > self._max_bytes:
                self._arrived = False
                self.failure = _too_large(self._max_bytes)
                raise self.failure
            self._take_what_arrived()
        return message

    def _take_what_arrived(self) -> None:
        """Beyond what was declared, which is all of a body in chunks."""
        try:
            self._hold.take(self._bytes - self._counted)
        except Busy as error:
            self._arrived = False
            self.failure = error
            raise
        self._counted = max(self._counted, self._bytes)

    async def send(self, message: Message) -> None:
        # FastAPI wraps what a body read raises in a 400 of its own, and a route may swallow it altogether.
        if self.answered:
            return
        if self.failure is not None and not self._begun:
            self.answered = True
            await answer(self.failure, self._scope)(self._scope, self._receive, self._send)
            return
        self._begun = True
        await self._send(message)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body is larger than {max_bytes} bytes, the most that this server takes.")
