"""A late answer: its headers go out before its client loses patience, its body when the work is done.

Knows time and the shape of a late answer; knows nothing of the work. @aigne/aigne-hub drops a request that has no
headers after 60 seconds and sends it again, four times in all: a picture that takes 70 seconds would be begun four
times and never arrive. Until the patience is used up the client gets the true status; after that, 200, spaces (which
JSON allows before its value) as long as the work lasts, and then the JSON.

What fails after that can no longer have a status. The error goes into the 200 in its usual shape. @aigne/aigne-hub
refuses such an answer, since it has no ``images``, and of all that is in it quotes only a wrong ``creditPrefix``:
so the message is there too, and whoever waited reads what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from server.edge.answers import draining, encode, error_body, internal_error, log_unforeseen, request_id_of
from server.edge.disconnect import ClientLeft
from server.edge.pieces import send_pieces
from server.errors import DarkroomError

_PAD_EVERY_S = 10.0  # well within the minute after which proxies drop a silent connection


async def headers_in_time(request: Request, work: Awaitable[Response], *, within_s: float) -> Response:
    """``work``'s answer, or raised error, if it comes within ``within_s``; else one that sends headers now."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=within_s)
    except asyncio.CancelledError:
        await _end(task)
        raise
    return task.result() if task.done() else _LateAnswer(task)


class _LateAnswer(Response):
    """Headers and spaces at once, the body when the work is done. The work itself ends when its client leaves."""

    media_type = "application/json"

    def __init__(self, task: asyncio.Future[Response]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._task = task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def put(body: bytes, *, more: bool) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not self._task.done():
                await put(b" ", more=True)
                await asyncio.wait({self._task}, timeout=_PAD_EVERY_S)
            await send_pieces(send, self._finished_body(request_id_of(scope)))
        except asyncio.CancelledError:  # the server's time to drain is over
            await put(_failed(draining(), request_id_of(scope)), more=False)
        finally:
            await _end(self._task)

    def _finished_body(self, request_id: str) -> bytes:
        """The finished body, or that of the failure. Raises ClientLeft."""
        try:
            return bytes(self._task.result().body)
        except ClientLeft:
            raise
        except DarkroomError as error:
            known = error
        except Exception as error:
            log_unforeseen(error, request_id)
            known = internal_error()
        return _failed(known, request_id)


def _failed(error: DarkroomError, request_id: str) -> bytes:
    body: dict[str, Any] = error_body(error, request_id)
    return encode({**body, "usage": {"creditPrefix": body["error"]["message"]}})


async def _end(task: asyncio.Future[Response]) -> None:
    """Cancel the work if it still runs, and wait for it."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
