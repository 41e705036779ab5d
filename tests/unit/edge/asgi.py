"""One exchange with an ASGI application, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Scope


def http_scope(
    method: str = "GET", path: str = "/", headers: Iterable[tuple[bytes, bytes]] = (), **more: object
) -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        **more,
    }


async def exchange(app: ASGIApp, scope: Scope, incoming: Iterable[Message] = ()) -> list[Message]:
    """What ``app`` sends, given these messages; after them ``receive`` waits for ever."""
    sent: list[Message] = []
    waiting = iter(incoming)

    async def receive() -> Message:
        await asyncio.sleep(0)
        message = next(waiting, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError
        return message

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(10):
        await app(scope, receive, send)
    return sent
