"""Methods: what each path takes, said alike by OPTIONS, by 405 and by HEAD.

Knows an application's routes by asking them; knows nothing of what they do. OPTIONS is answered here for every route,
and needs no key: browsers and proxies ask it before they have one, and it tells no more than the documents do. No
OPTIONS goes further. HEAD is answered like GET, without the body, wherever GET is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import NotFound

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_OF_THE_SERVER: Final = "*"  # OPTIONS * asks of no path (RFC 9110, 9.3.7)


class Methods:
    """The layer that answers OPTIONS, and HEAD where a route knows only GET."""

    def __init__(self, app: ASGIApp, *, routed: FastAPI) -> None:
        self.app = app
        self._routed = routed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["type"] == "http" else None
        if method == "OPTIONS":
            anything = scope["path"] == _OF_THE_SERVER or scope.get("state", {}).get("preflight")
            allowed = METHODS if anything else allowed_methods(self._routed.routes, scope)
            if not allowed:
                raise NotFound("There is nothing at this path.")
            await Response(status_code=204, headers={"allow": allow(allowed)})(scope, receive, send)
        elif method == "HEAD" and not _matches(self._routed.routes, scope, "HEAD"):
            await self._without_body(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _without_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _matches(self._routed.routes, scope, "GET"):
            await self.app(scope, receive, send)
            return
        inner = {**scope, "method": "GET"}

        async def headers_only(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        try:
            await self.app(inner, receive, headers_only)
        finally:  # the access log reads which route it was
            scope.update({key: value for key, value in inner.items() if key != "method"})


def allowed_methods(routes: Sequence[BaseRoute], scope: Scope) -> tuple[str, ...]:
    """Every method that this path takes, OPTIONS aside."""
    found = [method for method in METHODS if _matches(routes, scope, method)]
    if "GET" in found and "HEAD" not in found:
        found.insert(1, "HEAD")
    return tuple(found)


def allow(methods: Sequence[str]) -> str:
    """The Allow header of a path that takes ``methods``."""
    return ", ".join((*methods, "OPTIONS"))


def _matches(routes: Sequence[BaseRoute], scope: Scope, method: str) -> bool:
    asked: dict[str, Any] = {**scope, "method": method}
    return any(route.matches(asked)[0] is Match.FULL for route in routes)
