"""Request ids: a name for every request, kept if the client sent a plain one, made otherwise; and its job's, if any.

Knows ids; knows nothing of what the request is for. The id reaches logs through ``current_request_id``,
layers through ``scope["state"]["request_id"]`` and the client through the ``x-request-id`` header. A route that has
admitted a job leaves that job's id in ``scope["state"]["job_id"]``: every answer from there on, errors too, carries
it as ``x-job-id``. So it is with ``scope["state"]["ignored_fields"]``, names of fields, and ``x-ignored-fields``.
"""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.edge.headers import only

HEADER = b"x-request-id"
JOB_HEADER = b"x-job-id"
IGNORED_HEADER = b"x-ignored-fields"
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)

NO_REQUEST = "-"

current_request_id: ContextVar[str] = ContextVar("current_request_id", default=NO_REQUEST)


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def chosen_id(scope: Scope) -> str:
    """The client's own id if it could not disturb a log line or a header; else a new one."""
    sent = only(scope, HEADER)
    return sent if sent is not None and _PLAIN.fullmatch(sent) else new_request_id()


class WithRequestId(logging.Filter):
    """Put on a log handler, adds the id of the request at hand to every record that has none."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id = current_request_id.get()
        if request_id != NO_REQUEST and not hasattr(record, "request_id"):
            record.request_id = request_id
        return True


class RequestIds:
    """The layer that names every request and its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = chosen_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [(name, value) for name, value in message.get("headers", []) if name.lower() != HEADER]
                message["headers"] = [*others, (HEADER, request_id.encode("ascii"))]
                if job_id := scope["state"].get("job_id"):
                    message["headers"].append((JOB_HEADER, job_id.encode("ascii")))
                if ignored := scope["state"].get("ignored_fields"):
                    message["headers"].append((IGNORED_HEADER, ", ".join(ignored).encode("ascii")))
            await send(message)

        token = current_request_id.set(request_id)
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            current_request_id.reset(token)
