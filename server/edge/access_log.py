"""The access log: one record per request on the logger ``darkroom.access``.

Knows what may be written down: route template, method, status, seconds, principal, bytes. A raw path, a
query, a header value or a body never reaches it, since keys, prompts and signatures travel in those.
The fields are attributes of the record (``extra``); making JSON of them is telemetry's work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.edge.answers import request_id_of

CLIENT_LEFT = 499  # nginx's number for a client that closed before its answer; never on the wire
NO_ROUTE = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = logging.getLogger("darkroom.access")


def route_template(scope: Scope) -> str:
    """``/v1/models/{id}``, never ``/v1/models/what-the-client-typed``; "other" where no route matched.

    Good for metric labels too. Only meaningful once the router has run.
    """
    fastapi_scope = scope.get("fastapi")
    included = fastapi_scope.get("effective_route_context") if isinstance(fastapi_scope, dict) else None
    for route in (included, scope.get("route")):  # a route of an included router has its prefix in the former
        template = getattr(route, "path_format", None)
        if isinstance(template, str) and template:
            return template
    mounted = scope.get("root_path", "")
    if "endpoint" in scope and mounted:  # a mounted folder: Starlette leaves where it is mounted
        return f"{mounted}/*"
    return NO_ROUTE


Count = Callable[[str, int], None]  # route template, status


class AccessLog:
    """The layer that writes the records, and tells ``count`` of every request."""

    def __init__(self, app: ASGIApp, *, count: Count | None = None) -> None:
        self.app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = _Record(receive, send)
        try:
            await self.app(scope, record.receive, record.send)
        finally:
            record.write(scope)
            if self._count is not None:
                self._count(route_template(scope), record.status)


class _Record:
    """The record of one request, counted as its messages pass."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.started = time.monotonic()
        self.status = CLIENT_LEFT  # until an answer starts
        self.bytes = 0
        self.complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.complete:
            self.status = CLIENT_LEFT
            self.complete = True  # whatever is sent from now on reaches nobody
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self.complete:
            self.status = message["status"]
        elif message["type"] == "http.response.body" and not self.complete:
            self.bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    def write(self, scope: Scope) -> None:
        principal = scope.get("state", {}).get("principal")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        fields = {
            "method": method,
            "route": route_template(scope),
            "status": self.status,
            "seconds": round(time.monotonic() - self.started, 4),
            "principal": principal.name if principal is not None else None,
            "bytes": self.bytes,
            "request_id": request_id_of(scope),
        }
        log.info("request", extra=fields)
