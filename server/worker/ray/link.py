"""The way from the front to one replica. Knows bytes; what carries them, Ray or a test's paper, stands behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol


class LinkBroken(Exception):
    """The replica, or the way to it, is gone; the text is for the log."""


class Link(Protocol):
    """One replica. Everything raises LinkBroken where it is gone. Closing a generator ends its work there."""

    async def greet(self) -> bytes: ...
    def watch(self, body: bytes) -> AsyncGenerator[bytes, None]: ...
    def draw(self, body: bytes) -> AsyncGenerator[bytes, None]: ...
    async def tell(self, body: bytes) -> None: ...
