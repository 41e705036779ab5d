"""Paths: one spelling of each, before anything is decided by it.

Knows slashes and the version that people forget; knows no routes. Programs put a base URL and a path together
carelessly: ``//v1/models``, ``/v1//images/generations``, ``/v1/models/``, ``/images/generations``. Such a path is read
as the one that is meant. Nothing is redirected, since
a redirect loses a body. What may be a trick (dots, backslashes, a slash or a NUL that was written as %2f or %00 at an
edge) is left as it stands, and finds nothing. So is what stands below the open folders, where names are literal.

Azure's clients ask under ``/openai``, where the model may stand in the path as well:
``/openai/deployments/NAME/images/generations``. Such a name is kept in the scope's state, as ``deployment``.

``raw_path`` stays as it was sent.
"""

from __future__ import annotations

from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

LITERAL_FOLDERS = ("files/", "page/")
VERSION = "v1"
VERSIONED_FOLDERS = ("images", "models")  # without it they would be nothing
AZURE = "openai"
DEPLOYMENTS = "deployments"
DEPLOYED = ("images",)
MAX_DEPLOYMENT = 200  # characters


class Paths:
    """The layer that gives every request the one spelling of its path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = plain_path(scope["path"], scope.get("raw_path") or b"")
            deployed = of_deployment(scope["path"])
            if deployed is not None:
                scope.setdefault("state", {})["deployment"], scope["path"] = deployed
        await self.app(scope, receive, send)


def plain_path(path: str, raw_path: bytes) -> str:
    """``path`` without empty parts or a last slash, and with its version; as it is where that may be a trick."""
    raw = raw_path.decode("latin-1")
    if not raw.startswith("/") or unquote(raw) != path:
        return path
    if raw.lstrip("/").startswith(LITERAL_FOLDERS):
        return unquote("/" + raw.lstrip("/"))
    parts = [unquote(part) for part in raw.split("/") if part]
    if any(_is_trick(part) for part in parts):
        return path
    if parts[:1] == [AZURE] and parts[1:2] and parts[1] in (VERSION, *VERSIONED_FOLDERS):
        del parts[0]
    if parts and parts[0] in VERSIONED_FOLDERS:
        parts.insert(0, VERSION)
    return "/" + "/".join(parts)


def of_deployment(path: str) -> tuple[str, str] | None:
    """The name in the path of a deployment of Azure's, and the path of ours that is meant; None for any other path."""
    parts = path.split("/")
    if parts[:3] != ["", AZURE, DEPLOYMENTS] or parts[-2] not in DEPLOYED or any(map(_is_trick, parts[3:])):
        return None
    name = "/".join(parts[3:-2])  # of several parts where a provider's prefix is in it
    return (name, "/" + "/".join((VERSION, *parts[-2:]))) if 0 < len(name) <= MAX_DEPLOYMENT else None


def _is_trick(part: str) -> bool:
    """Could this part climb, or be read as several by one reader and as one by another?

    A provider's prefix may come as ``openai%2Fgpt-image-1``: an encoded slash between two names is none.
    """
    return "\\" in part or "\0" in part or not {"", ".", ".."}.isdisjoint(part.split("/"))


def plain_target(target: bytes) -> bytes:
    """The request target; ``http://host`` and ``http://host?query`` ask for ``/`` (RFC 9112, 3.2.2)."""
    scheme, mark, rest = target.partition(b"://")
    if not mark or not scheme.isalpha():
        return target
    authority, question, query = rest.partition(b"?")
    return target if b"/" in authority else b"%s://%s/%s%s" % (scheme, authority, question, query)
