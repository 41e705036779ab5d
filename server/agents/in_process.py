"""httpx's transport to an application in this process: the same routes and layers, without a socket.

Knows ASGI and httpx; knows no routes. Unlike httpx's own, an answer can be read while it is being made, and is made no
faster than it is read. Closing an answer is the client's leaving.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any, Final

import httpx

Message = MutableMapping[str, Any]
_HERE: Final = ("127.0.0.1", 80)
_AHEAD: Final = 4  # messages of an answer that are made before they are read
_LEAVING_S: Final = 5.0  # for the application to end what nobody waits for


class InProcess(httpx.AsyncBaseTransport):
    """Requests to ``app``. ``ends``: what its scopes say of the connection, where there is one."""

    def __init__(self, app: Any, ends: Mapping[str, Any] | None = None) -> None:
        self._app = app
        self._ends = {"server": _HERE, "client": ("127.0.0.1", 1), **(ends or {})}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        exchange = _Exchange(body)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "state": {},
            **self._ends,
        }
        task = asyncio.create_task(self._app(scope, exchange.receive, exchange.send))
        task.add_done_callback(lambda _: exchange.end())
        try:
            start = await exchange.next()
        except asyncio.CancelledError:
            exchange.left.set()
            raise
        if start is None:
            await task  # raises what the application raised
            raise httpx.RemoteProtocolError("the application sent no answer")
        return httpx.Response(start["status"], headers=start["headers"], stream=_Body(exchange, task))


class _Exchange:
    """One request and its answer, as ASGI messages."""

    def __init__(self, body: bytes) -> None:
        self._request: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._ahead = asyncio.Semaphore(_AHEAD)
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        if self._request is not None:
            request, self._request = self._request, None
            return request
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if not self.left.is_set():  # nobody reads it
            await self._ahead.acquire()
            self._messages.put_nowait(message)

    def end(self) -> None:
        self._messages.put_nowait(None)

    async def next(self) -> Message | None:
        message = await self._messages.get()
        self._ahead.release()
        return message


class _Body(httpx.AsyncByteStream):
    def __init__(self, exchange: _Exchange, task: asyncio.Task[None]) -> None:
        self._exchange = exchange
        self._task = task

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._exchange.next()) is not None:
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return

    async def aclose(self) -> None:
        self._exchange.left.set()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(self._task, timeout=_LEAVING_S)
