"""A server inside this process, without a socket: for ``--local``.

Knows how to run the application and hand it requests; the same routes, queue and worker as ``darkroom serve``. Its
data folder is temporary: it has no keys, and keeps nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx

from server.commands import early
from server.settings import Settings

_HOST = "127.0.0.1"
URL = f"http://{_HOST}"
Message = MutableMapping[str, Any]


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[httpx.AsyncBaseTransport]:
    """Run the application until the block ends. Raises ConfigError for settings that it cannot run with."""
    log = logging.getLogger("darkroom")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what goes wrong is in the answers
    try:
        with tempfile.TemporaryDirectory(prefix="darkroom-local-") as folder:
            own: dict[str, Any] = {"data_dir": Path(folder), "host": _HOST, "public_url": None, "log_level": "error"}
            own |= {"store": "local", "cluster": None}  # this machine draws, and nobody would connect a cluster
            chosen = settings.model_copy(update=own)
            with early.workers(chosen) as begun:
                from server.app import create_app  # its imports take their time beside the worker's

                app = create_app(chosen, begun)
                async with app.router.lifespan_context(app):
                    yield InProcess(app)
    finally:
        log.setLevel(level)


class InProcess(httpx.AsyncBaseTransport):
    """httpx's ASGI transport, but for this: an answer can be read while it is being made."""

    def __init__(self, app: Any) -> None:
        self._app = app

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
            "server": (_HOST, 80),
            "client": (_HOST, 1),
            "state": {},
        }
        task = asyncio.create_task(self._app(scope, exchange.receive, exchange.send))
        task.add_done_callback(lambda _: exchange.end())
        try:
            start = await exchange.next()
        except asyncio.CancelledError:
            task.cancel()
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
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        if self._request is not None:
            request, self._request = self._request, None
            return request
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self._messages.put(message)

    def end(self) -> None:
        self._messages.put_nowait(None)

    async def next(self) -> Message | None:
        return await self._messages.get()


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
            await asyncio.wait_for(self._task, timeout=5)
