"""Etags and If-None-Match: whether the client has what would be sent.

Knows the header's grammar (RFC 9110, 13.1.2); knows nothing of what is sent.
"""

from __future__ import annotations

from typing import Final

from fastapi import Request

_MAX_TAGS: Final = 16  # looked at


def held_by_client(request: Request, etag: str) -> bool:
    """Whether ``etag`` is among the tags that the client names; weakly, as the standard has it for this header."""
    named = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",", _MAX_TAGS)[:_MAX_TAGS]]
    return "*" in named or etag in (tag.removeprefix("W/") for tag in named)
