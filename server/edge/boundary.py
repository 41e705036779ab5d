"""The error boundary, where exceptions stop: whatever a layer or a route raises becomes one answer, once.

Knows which exceptions are answers, which are accidents, and whether an answer has begun; decides nothing
else. It stands inside Starlette's own last resort, which would raise again and let uvicorn log the text.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.edge.answers import answer, draining, internal_error, log_unforeseen, request_id_of
from server.edge.disconnect import ClientLeft
from server.errors import DarkroomError

log = logging.getLogger("darkroom.edge")


class ErrorBoundary:
    """The layer that answers what is raised inside it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        request_id = request_id_of(scope)
        known: DarkroomError
        try:
            await self.app(scope, receive, sending)
            return
        except (ClientLeft, ClientDisconnect):
            # Nobody is there to read an answer. The access log says 499; leaving is no fault of ours.
            log.info("client left", extra={"request_id": request_id})
            return
        except asyncio.CancelledError:  # uvicorn cancels what outlasts drain_timeout_s, and nothing else does
            known = draining()
        except DarkroomError as error:
            known = error
        except Exception as error:
            log_unforeseen(error, request_id)
            known = internal_error()
        if begun:  # too late to answer; returning with the response unfinished makes uvicorn cut it off
            log.warning("cut off after %s", known.code, extra={"request_id": request_id})
            return
        await answer(known, scope)(scope, receive, send)
