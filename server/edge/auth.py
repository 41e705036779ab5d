"""Authentication: every request has a principal, or is refused before its body is read.

Knows keys and the list of open paths; knows nothing of routes. A route is closed because nobody listed it
here, never because somebody remembered to protect it. Paths are compared as the router will see them
(decoded, not normalised), and no URL is ever built from the Host header.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from server.edge.headers import values
from server.edge.keys import LOCAL, Keyring, Principal
from server.edge.rebinding import RebindingGuard
from server.errors import NotFound, Unauthorized
from server.settings import Settings

OPEN_PATHS = frozenset({"/livez", "/readyz", "/__blocklet__.js", "/", "/favicon.ico"})
OPEN_FOLDERS = ("/files/", "/page/")  # pictures carry their right in the signature; the page asks for the key
_BEARER = re.compile(r"bearer +(?P<key>[!-~]{1,512}) *", re.ASCII | re.IGNORECASE)


class Auth:
    """The layer that finds each request's principal."""

    def __init__(self, app: ASGIApp, *, settings: Settings, keyring: Keyring) -> None:
        self.app = app
        self._keyring = keyring
        self._rebinding = RebindingGuard(settings)
        self._allow_open = settings.allow_open
        self._closed = not (settings.this_machine_only or settings.allow_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # we have none; refused here so that none can slip past the key
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            principal = self._principal(scope)
            if principal is not None:
                scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)

    def _principal(self, scope: Scope) -> Principal | None:
        """Who asks; None for a stranger on an open path. Raises Unauthorized."""
        # A server that has had a key stays closed: revoking the last key must not open it. Nor does a restart, unless
        # allow_open says so.
        self._closed = self._closed or not self._keyring.empty or (self._keyring.had_keys and not self._allow_open)
        if not self._closed:
            self._rebinding.check(scope)
            return LOCAL
        sent = values(scope, b"authorization")
        match = _BEARER.fullmatch(sent[0].decode("latin-1")) if len(sent) == 1 else None
        principal = self._keyring.principal_of(match["key"]) if match is not None else None
        if principal is not None or is_open(scope):
            return principal
        if not sent:
            raise Unauthorized("No API key. Send yours in the header Authorization: Bearer KEY.")
        raise Unauthorized("This API key is not known here. Send yours in the header Authorization: Bearer KEY.")


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
