"""The rest of a worker: when each model was last used, and whether the process sleeps.

Knows times and wishes; knows neither processes nor messages. A worker that sleeps has no process: it counts as up, and
the next drawing wakes it.
"""

from __future__ import annotations

import asyncio
import time


class Rest:
    """Whether a worker sleeps, is to sleep, or is being woken."""

    def __init__(self) -> None:
        self.wanted = False  # it is to sleep as soon as it is free
        self.asleep = False
        self.waking = False  # a process is being started because somebody woke it
        self.preloads = True  # of the next process: does it load what is to be preloaded?
        self._woken = asyncio.Event()
        self._used_s: dict[str, float] = {}  # monotonic, by the key of the plan
        self._up_s = time.monotonic()

    @property
    def excused(self) -> bool:
        """Is there no process, and the server ready none the less?"""
        return self.asleep or self.waking

    def use(self, key: str) -> None:
        """Somebody uses this model, or has just ceased to."""
        self._used_s[key] = time.monotonic()

    def idle_s(self, key: str | None = None) -> float:
        """Seconds since this model was used; without ``key``, since any was, or the process came up."""
        used = self._used_s.get(key, self._up_s) if key is not None else max(self._used_s.values(), default=0.0)
        return time.monotonic() - max(used, self._up_s)

    def begin(self) -> None:
        """The process is told to end."""
        self.wanted, self.asleep, self.preloads = False, True, False
        self._woken.clear()

    def wake(self) -> None:
        """Somebody needs the process."""
        self.wanted = False
        self._woken.set()

    async def until_woken(self) -> None:
        await self._woken.wait()
        self.asleep, self.waking = False, True

    def up(self) -> None:
        """A process has come up."""
        self.waking, self.preloads = False, True
        self._up_s = time.monotonic()
