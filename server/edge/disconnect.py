"""Disconnects: work that ends when its client leaves.

Knows tasks and ``http.disconnect``; knows nothing of the work. A handler that merely awaits keeps a device
busy for a client that closed long ago (model-runner#1041, vllm-omni#1347).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

T = TypeVar("T")


class ClientLeft(Exception):
    """The client closed before its answer. Nobody reads one; the access log records 499."""


async def until_disconnect(receive: Receive) -> None:
    """Return when the client has left. Only for a request whose body has been read: the rest is lost."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, or ClientLeft, raised once ``work`` has been cancelled and has ended.

    Cancelling the caller cancels the work in the same way. No task outlives this call.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(until_disconnect(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        watch.result()  # raises if watching itself failed
    finally:
        await _end(watch, task)
    raise ClientLeft


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait for it even if we are cancelled meanwhile, as a TaskGroup does."""
    for task in tasks:
        task.cancel()
    interrupted: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            interrupted = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not report it as never retrieved
    if interrupted is not None:
        raise interrupted
