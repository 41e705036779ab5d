"""Ownership: of the servers that share a data folder, the one that works off what is kept there.

Knows one lock file. The system takes the lock back when the process ends, however it ends. Two servers share a folder
while one replaces the other, for longer if somebody starts two.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_ASK_EVERY_S = 1.0


class Ownership:
    """A lock that one process has at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    async def gained(self) -> None:
        """Return once it is ours. Of a folder where nothing can be written or locked, it never is."""
        while True:
            if await asyncio.to_thread(self._try):
                return
            await asyncio.sleep(_ASK_EVERY_S)

    def release(self) -> None:
        """Let another have it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _try(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return False
        try:
            if sys.platform != "win32":
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True
