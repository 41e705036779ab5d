"""Answers to errors: from an error to a response, the one shape of failure on the wire.

Knows DarkroomError, its row in the table, and headers; raises nothing and decides no status itself.
``install`` makes an app's own failures (unknown route, failed validation) take the same shape.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from server.edge.dialects import speaks_sdapi
from server.edge.methods import allow, allowed_methods
from server.edge.request_id import NO_REQUEST
from server.edge.translation import from_http_exception, from_validation
from server.errors import DarkroomError, Draining, MethodNotAllowed, ServerFault

RETRY_AFTER_S = {429: 1.0, 503: 5.0}  # when the error does not say; only where a repeat may help

log = logging.getLogger("darkroom.edge")


def request_id_of(scope: Scope) -> str:
    """The id that the outermost layer gave this request."""
    return cast(str, scope.get("state", {}).get("request_id", NO_REQUEST))


def error_body(error: DarkroomError, request_id: str) -> dict[str, Any]:
    """The JSON of one failure. Ours carry the request id in the text, for people who see only the text."""
    message = error.message
    if error.answer.status >= 500 and request_id != NO_REQUEST:
        message = f"{message} (request {request_id})"
    fields = {"message": message, "type": error.answer.type, "param": error.param, "code": error.code}
    return {"error": fields}


def encode(body: dict[str, Any]) -> bytes:
    """ASCII JSON: no text, not even a lone surrogate, can make an error fail to be encoded."""
    return json.dumps(body, ensure_ascii=True, allow_nan=False).encode("ascii")


def error_headers(error: DarkroomError, request_id: str) -> dict[str, str]:
    answer = error.answer
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-request-id": request_id,
        "x-should-retry": "true" if answer.retry else "false",
    }
    wait_s = error.retry_after_s
    if wait_s is None and answer.retry:
        wait_s = RETRY_AFTER_S.get(answer.status)
    if wait_s is not None and math.isfinite(wait_s):
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
    if answer.status == 401:
        headers["www-authenticate"] = "Bearer"
    if answer.status == 415:
        headers["accept-encoding"] = "gzip, deflate"
    if answer.status == 408:
        headers["connection"] = "close"  # the rest of that request may still be on its way
    return headers


def error_response(error: DarkroomError, request_id: str, extra: Mapping[str, str] | None = None) -> Response:
    """The whole response for ``error``."""
    headers = {**error_headers(error, request_id), **(extra or {})}
    return Response(encode(error_body(error, request_id)), status_code=error.answer.status, headers=headers)


def answer(error: DarkroomError, scope: Scope, extra: Mapping[str, str] | None = None) -> Response:
    """The whole response for ``error`` to one request, also in the words of the clients of its path."""
    request_id = request_id_of(scope)
    if not speaks_sdapi(scope):
        return error_response(error, request_id, extra)
    headers, body = error_headers(error, request_id), error_body(error, request_id)
    if error.answer.status == 401:
        headers["www-authenticate"] = 'Basic realm="Darkroom", charset="UTF-8"'
    body["detail"] = body["error"]["message"]
    return Response(encode(body), status_code=error.answer.status, headers={**headers, **(extra or {})})


def internal_error() -> ServerFault:
    """What a client learns of a failure that nobody foresaw: nothing but where to look."""
    return ServerFault("The server failed on this request; its log says why.")


def draining() -> Draining:
    """What is told to whoever still waits when the time to drain is over."""
    return Draining("The server shut down before this was finished. Send it again.")


def log_unforeseen(error: BaseException, request_id: str) -> None:
    """Log where an exception came from, without its text, which may quote a prompt or a path."""
    kinds: list[str] = []
    frames = ""
    link: BaseException | None = error
    while link is not None and len(kinds) < 8:
        kinds.append(type(link).__qualname__)
        for frame in traceback.extract_tb(link.__traceback__)[-12:]:
            frames += f"\n  {frame.filename}:{frame.lineno} {frame.name}"
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    log.error("unforeseen %s%s", " from ".join(kinds), frames, extra={"request_id": request_id})


def install(app: FastAPI) -> None:
    """Answer this app's own failures in the one shape."""

    async def ours(request: Request, error: Exception) -> Response:
        return answer(cast(DarkroomError, error), request.scope)

    async def invalid(request: Request, error: Exception) -> Response:
        known = from_validation(cast(RequestValidationError, error))
        return answer(known, request.scope)

    async def refused(request: Request, error: Exception) -> Response:
        known = from_http_exception(cast(HTTPException, error))
        extra = None
        if isinstance(known, MethodNotAllowed):  # Starlette names the methods of one route of the path
            extra = {"allow": allow(allowed_methods(app.routes, request.scope))}
        return answer(known, request.scope, extra)

    async def unforeseen(request: Request, error: Exception) -> Response:
        log_unforeseen(error, request_id_of(request.scope))
        return answer(internal_error(), request.scope)

    app.add_exception_handler(DarkroomError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, unforeseen)
