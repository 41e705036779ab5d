"""Request headers, read from an ASGI scope. Knows names and bytes; decides nothing."""

from __future__ import annotations

from starlette.types import Scope


def values(scope: Scope, name: bytes) -> list[bytes]:
    """Every value sent under the lower-case ``name``, in order."""
    return [value for key, value in scope["headers"] if key == name]


def only(scope: Scope, name: bytes) -> str | None:
    """The value of ``name`` if it was sent exactly once. Two values leave room for two readings."""
    found = values(scope, name)
    return found[0].decode("latin-1") if len(found) == 1 else None


def declared_length(scope: Scope) -> int | None:
    """Content-Length in bytes; None if it is absent or no plain number."""
    text = only(scope, b"content-length")
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 18:
        return None
    return int(text)


def announces_body(scope: Scope) -> bool:
    """Is a body coming? In HTTP/1 one comes only if one of these two headers says so."""
    return bool(values(scope, b"transfer-encoding")) or values(scope, b"content-length") not in ([], [b"0"])


def waits_for_continue(scope: Scope) -> bool:
    """Does the client hold its body back until it is asked for (Expect: 100-continue)?"""
    return any(value.lower() == b"100-continue" for value in values(scope, b"expect"))
