"""CORS: which pages of other origins may read this server's answers, and the preflights that their browsers send.

Knows the Origin header and the setting ``cors_origins``; knows neither keys nor routes. It stands outside every other
layer, so that refusals carry its headers too: without them a page learns that something failed, and not what. Origins
are compared as browsers write them. Cookies are never asked for (there is no ``Access-Control-Allow-Credentials``): a
page has to send a key, so that nothing is done in the name of whoever happens to look at it.

A preflight of a listed origin is answered alike for every path, unknown ones included: the request that it asks for
gets its own answer, which the page can then read. ``methods`` answers it; this layer says what it allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.edge.headers import only, values
from server.edge.methods import METHODS
from server.errors import ConfigError
from server.setting_values import ANY_ORIGIN
from server.settings import Settings

MAX_AGE_S = 600  # browsers keep what a preflight allowed for so long; Chromium at most two hours
_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*", re.ASCII)
_MAX_ASKED = 4096  # characters of header names
_USUAL = "authorization, content-type"
# What a page may read of every answer (Fetch, CORS-safelisted response-header name), and what is of the connection.
_NOT_EXPOSED = {
    "cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma",
    "access-control-allow-origin", "connection", "date", "set-cookie", "transfer-encoding", "vary",
}  # fmt: skip
_ALLOWED = b"access-control-allow-origin"

Headers = list[tuple[bytes, bytes]]


class Origins:
    """The origins whose pages may read answers: those listed, or any."""

    def __init__(self, settings: Settings) -> None:
        self.any = settings.origins == (ANY_ORIGIN,)
        self._listed = frozenset(settings.origins)

    def __bool__(self) -> bool:
        return bool(self._listed)

    def allowed(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """What ``Access-Control-Allow-Origin`` says to a request with these headers; None: nothing is allowed."""
        sent = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if len(sent) != 1:  # no browser sends two
            return None
        if self.any:
            return ANY_ORIGIN
        return sent[0] if self.lists(sent[0]) else None

    def lists(self, origin: str) -> bool:
        """Is this one named in the setting?"""
        return not self.any and origin.lower() in self._listed

    def refusal_headers(self, headers: Iterable[tuple[bytes, bytes]], sent: Iterable[str]) -> dict[str, str]:
        """What is added to an answer that no application makes, whose own headers are ``sent``."""
        if not self:
            return {}
        found = {} if self.any else {"vary": "Origin"}
        if (allowed := self.allowed(headers)) is not None:
            found |= {"access-control-allow-origin": allowed, "access-control-expose-headers": exposed(sent)}
        return found


class Cors:
    """The layer that tells browsers which pages may read an answer."""

    def __init__(self, app: ASGIApp, *, origins: Origins) -> None:
        self.app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._origins:
            await self.app(scope, receive, send)
            return
        allowed = self._origins.allowed(scope["headers"])
        preflight = allowed is not None and _is_preflight(scope)
        if preflight:
            scope.setdefault("state", {})["preflight"] = True

        async def send_with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: Headers = list(message.get("headers", []))
                if not self._origins.any:  # whoever keeps answers for others keeps one for each origin
                    headers.append((b"vary", b"Origin"))
                if allowed is not None:
                    anyone = any(name.lower() == _ALLOWED for name, _ in headers)  # a picture, by its signed URL
                    headers += _of_preflight(scope) if preflight else _of_answer(headers)
                    headers += [] if anyone else [(_ALLOWED, allowed.encode("latin-1"))]
                message["headers"] = headers
            await send(message)

        await self.app(scope, receive, send_with_origin)


def is_preflight(scope: Scope) -> bool:
    """Is this a browser's question whether a listed origin may send a request?"""
    return bool(scope.get("state", {}).get("preflight"))


def require_someone_to_trust(settings: Settings, *, obeys_anyone: bool) -> None:
    """Raise ConfigError where any page of any site could draw: ``*`` on a server that asks for no key."""
    if obeys_anyone and settings.origins == (ANY_ORIGIN,):
        raise ConfigError(
            "DARKROOM_CORS_ORIGINS (--cors-origins) = '*': this server asks for no key, so that every web page that"
            " somebody here visits could draw on it; name the origins, or make a key with `darkroom keys create NAME`"
        )


def exposed(names: Iterable[str]) -> str:
    """The value of ``Access-Control-Expose-Headers`` for an answer with headers of these names."""
    return ", ".join(sorted({name.lower() for name in names} - _NOT_EXPOSED))


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and bool(values(scope, b"access-control-request-method"))


def _of_answer(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    names = exposed(name.decode("latin-1") for name, _ in headers)
    return [(b"access-control-expose-headers", names.encode("latin-1"))] if names else []


def _of_preflight(scope: Scope) -> Headers:
    """All methods and whatever headers are asked for: what may be done is decided when it is asked, by the key."""
    asked = only(scope, b"access-control-request-headers")
    names = asked if asked is not None and len(asked) <= _MAX_ASKED and _NAMES.fullmatch(asked) else _USUAL
    found = [
        (b"access-control-allow-methods", ", ".join(METHODS).encode("ascii")),
        (b"access-control-allow-headers", names.encode("latin-1")),
        (b"access-control-max-age", str(MAX_AGE_S).encode("ascii")),
    ]
    # Chromium asked so before pages of public sites might reach private addresses; newer ones ask the user instead.
    if only(scope, b"access-control-request-private-network") == "true":
        found.append((b"access-control-allow-private-network", b"true"))
    return found
