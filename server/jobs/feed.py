"""A feed: what one reader of a job has not read yet.

Knows bytes and order; knows neither jobs nor HTTP. The job never waits for its readers: a feed keeps at most
``max_bytes`` of previews, and drops the oldest first; a preview for which the budget has no room is not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import NamedTuple

from pipelines.spec import Picture
from server.errors import Busy
from server.jobs.budget import Hold

_MAX_BYTES = 16 * 1024 * 1024


class Preview(NamedTuple):
    """One unfinished picture."""

    number: int  # which of the job's previews, from 0
    picture: Picture


class Feed:
    """One reader's share of a job's news."""

    def __init__(self, max_bytes: int = _MAX_BYTES, hold: Hold | None = None) -> None:
        self._max_bytes = max_bytes
        self._hold = hold  # its reader's
        self._previews: deque[Preview] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def notice(self) -> None:
        """Something about the job is different now."""
        self._news.set()

    def preview(self, number: int, picture: Picture) -> None:
        if self._hold is not None:
            try:
                self._hold.take(len(picture.data))
            except Busy:
                return
        self._previews.append(Preview(number, picture))
        self._bytes += len(picture.data)
        while self._bytes > self._max_bytes:
            self._take()
        self.notice()

    def next_preview(self) -> Preview | None:
        """The oldest that is kept, once."""
        return self._take() if self._previews else None

    async def wait(self, timeout_s: float) -> None:
        """Return as soon as there is news, or after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        self._news.clear()

    def _take(self) -> Preview:
        preview = self._previews.popleft()
        self._bytes -= len(preview.picture.data)
        if self._hold is not None:
            self._hold.give(len(preview.picture.data))
        return preview
