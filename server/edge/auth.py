"""Authentication: every request has a principal, or is refused before its body is read.

Knows keys and the list of open paths; knows nothing of routes. A route is closed because nobody listed it
here, never because somebody remembered to protect it. Paths are compared as the router will see them
(decoded, in the spelling that ``paths`` gives them), and no URL is ever built from the Host header.

A key comes as ``Authorization: Bearer KEY``, as ``api-key: KEY`` (Azure's clients) or as ``x-api-key: KEY``. Two
headers that say the same key are one; two that disagree are none, since nobody can know which was meant. OPTIONS needs
no key: ``methods`` answers it, and lets it no further.

Programs made for AUTOMATIC1111 send keys by Basic authentication, and are told to by the paths that they ask for: the
password is the key, whoever the user is; or the user is, where there is no password.
"""

from __future__ import annotations

import base64
import binascii
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from server.edge.dialects import speaks_sdapi
from server.edge.headers import values
from server.edge.keys import LOCAL, LOCAL_OWNER, Keyring, Principal
from server.edge.rebinding import RebindingGuard
from server.errors import NotFound, Unauthorized, Unavailable
from server.settings import Settings

OPEN_PATHS = frozenset({"/livez", "/readyz", "/__blocklet__.js", "/", "/favicon.ico"})
OPEN_FOLDERS = ("/files/", "/page/")  # pictures carry their right in the signature; the page asks for the key
HEALTH_PATHS = frozenset({"/livez", "/readyz"})
_BEARER = re.compile(r"bearer +(?P<key>[!-~]{1,512}) *", re.ASCII | re.IGNORECASE)
_BASIC = re.compile(r"basic(?: +(?P<pair>[^ ]*) *)?", re.ASCII | re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"(?!bearer\b)[a-z][a-z0-9-]* .*", re.ASCII | re.IGNORECASE | re.DOTALL)
_PLAIN = re.compile(r"[!-~]{1,512}", re.ASCII)
_PLAIN_HEADERS = (b"api-key", b"x-api-key")
_REMEDY = "Send yours in the header Authorization: Bearer KEY, or in api-key or x-api-key."
_SDAPI_REMEDY = (
    "Send yours as the password of Basic authentication, the user being anybody, or as Authorization: Bearer KEY."
)


class Auth:
    """The layer that finds each request's principal."""

    def __init__(self, app: ASGIApp, *, settings: Settings, keyring: Keyring) -> None:
        self.app = app
        self._keyring = keyring
        self._rebinding = RebindingGuard(settings)
        self._allow_open = settings.allow_open
        # Whoever reaches it is its owner only where nobody else does, and nobody was let in on purpose.
        self._has_owner = settings.this_machine_only and not settings.allow_open
        self._closed = not (settings.this_machine_only or settings.allow_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # we have none; refused here so that none can slip past the key
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            principal = self._principal(scope)
            if principal is not None:
                scope.setdefault("state", {})["principal"] = principal
            if scope.get("state", {}).get("spare_connection"):
                _require_spare(scope, principal)
        await self.app(scope, receive, send)

    def _principal(self, scope: Scope) -> Principal | None:
        """Who asks; None for a stranger on an open path. Raises Unauthorized."""
        # A server that has had a key stays closed: revoking the last key must not open it. Nor does a restart, unless
        # allow_open says so.
        self._closed = self._closed or not self._keyring.empty or (self._keyring.had_keys and not self._allow_open)
        if not self._closed:
            self._rebinding.check(scope)
            return LOCAL_OWNER if self._has_owner and self._rebinding.is_owner(scope) else LOCAL
        claims = _claims(scope)
        key = claims[0] if len(set(claims)) == 1 else None
        principal = self._keyring.principal_of(key) if key is not None else None
        if principal is not None or scope["method"] == "OPTIONS" or is_open(scope):
            return principal
        remedy = _SDAPI_REMEDY if speaks_sdapi(scope) else _REMEDY
        if not claims:
            raise Unauthorized(f"No API key. {remedy}")
        if len(claims) > 1 and key is None:
            raise Unauthorized(
                "The headers of this request name several API keys, or one and something else. Send one."
            )
        raise Unauthorized(f"This API key is not known here. {remedy}")


def _claims(scope: Scope) -> list[str | None]:
    """Every key that the request claims to have, None for a claim that cannot be a key.

    An Authorization of another scheme beside api-key or x-api-key is for somebody else, a proxy before us.
    """
    sent = [value.decode("latin-1").strip(" ") for name in _PLAIN_HEADERS for value in values(scope, name)]
    plain = [value for value in sent if value]  # programs send the header of a key that nobody has entered
    claims = [value if _PLAIN.fullmatch(value) else None for value in plain]
    for value in values(scope, b"authorization"):
        text = value.decode("latin-1")
        if text.strip(" ").lower() in ("", "bearer"):
            continue
        if speaks_sdapi(scope) and not plain and (basic := _BASIC.fullmatch(text.strip(" "))) is not None:
            pair = _decoded(basic["pair"] or "")
            if pair not in ("", ":"):  # what programs send that have nothing to send
                claims.append(None if pair is None else _of_pair(pair))
            continue
        match = _BEARER.fullmatch(text)
        if match is not None or not (plain and _OTHER_SCHEME.fullmatch(text)):
            claims.append(match["key"] if match is not None else None)
    if any(len(values(scope, name)) > 1 for name in (b"authorization", *_PLAIN_HEADERS)):
        claims.append(None)  # one header twice leaves room for two readings
    return claims


def _decoded(pair: str) -> str | None:
    """``user:password`` of Basic authentication (RFC 7617); None for what is no base64 of a text."""
    try:
        return base64.b64decode(pair + "=" * (-len(pair) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _of_pair(pair: str) -> str | None:
    """The key in ``user:password``; None where there is none that can be one."""
    user, _, password = pair.partition(":")
    key = password or user
    return key if _PLAIN.fullmatch(key) else None


def _require_spare(scope: Scope, principal: Principal | None) -> None:
    """Refuse what the connections beyond the limit are not kept for. Raises Unavailable."""
    if principal in (None, LOCAL) and scope["path"] not in HEALTH_PATHS:
        raise Unavailable("The server has as many connections as it may.", retry_after_s=1)


def is_open(scope: Scope) -> bool:
    """May a stranger ask for this? Raises NotFound for a path that climbs out of an open folder."""
    path: str = scope["path"]
    if scope["method"] not in ("GET", "HEAD"):
        return False
    if path in OPEN_PATHS:
        return True
    if not path.startswith(OPEN_FOLDERS):
        return False
    # Nothing of ours is under such a name. The router would not resolve it either; this does not rely on it.
    if "\\" in path or "\0" in path or {"", ".", ".."} & set(path.split("/")[2:-1]) or path.endswith(("/.", "/..")):
        raise NotFound("There is nothing at this path.")
    return True
