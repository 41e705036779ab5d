"""Company: jobs draw together, but for those that have to draw alone.

Knows who draws on one device and who waits; knows nothing of jobs or workers. All of it runs on the event loop's
thread. Whoever waits to be alone holds up those that come later, so that its turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Company:
    """Who draws now."""

    def __init__(self) -> None:
        self._together = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._door = asyncio.Lock()  # held by the one that is alone, or waits to be; all others pass through it

    @property
    def shut(self) -> bool:
        """Does one draw alone, or wait to?"""
        return self._door.locked()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Draw beside others."""
        async with self._door:
            self._together += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._together -= 1
            if not self._together:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until nobody else draws, and let nobody begin meanwhile."""
        async with self._door:
            await self._empty.wait()
            yield
