"""What waits to be told over one stream of a replica. Knows messages and time; knows neither Ray nor workers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Generic, TypeVar

import msgspec

from server.worker import protocol
from server.worker.ray.messages import Alive

SIGN_S = 2.0  # of silence, then a sign of life
STEPS_S = 0.2  # between two messages about a drawing's steps: each costs the front half a millisecond

T = TypeVar("T")


class Outbox(Generic[T]):
    """Messages in order. Steps that wait are told as one, and a sign of life where nothing waits."""

    def __init__(self, *, sign_s: float = SIGN_S, steps_s: float = STEPS_S) -> None:
        self._sign_s = sign_s
        self._steps_s = steps_s
        self._waiting: deque[T] = deque()
        self._put = asyncio.Event()
        self._told_steps_s = -steps_s  # monotonic

    def put(self, message: T) -> None:
        last = self._waiting[-1] if self._waiting else None
        if isinstance(message, protocol.Progress) and isinstance(last, protocol.Progress):
            self._waiting[-1] = msgspec.structs.replace(message, news=last.news + message.news)
        else:
            self._waiting.append(message)
        self._put.set()

    async def take(self) -> T | Alive:
        """The next message; Alive after some time without one."""
        deadline_s = time.monotonic() + self._sign_s
        while (wait_s := self._wait_s(deadline_s)) > 0:
            self._put.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._put.wait()
            except TimeoutError:
                continue
        if not self._waiting:
            return Alive()
        message = self._waiting.popleft()
        if isinstance(message, protocol.Progress):
            self._told_steps_s = time.monotonic()
        return message

    def _wait_s(self, deadline_s: float) -> float:
        """Seconds until there is something to tell, unless more is put before."""
        now_s = time.monotonic()
        if not self._waiting:
            return deadline_s - now_s
        if len(self._waiting) == 1 and isinstance(self._waiting[0], protocol.Progress):
            return self._told_steps_s + self._steps_s - now_s
        return 0.0
