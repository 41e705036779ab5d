"""The budget of bytes: how much of clients' bodies and of answers to them the front holds at a time.

Knows bytes and principals; knows neither HTTP nor pictures. All methods run on the event loop's thread.

A request takes what it needs before that is read or made, and gives it back when its answer has been taken. A key may
hold no more than is then still free, so that alone it gets half and every other finds room; the only request of a key
may use all of the rest. What the server owes, the pictures of a job that it has drawn, is always taken: then nothing
new comes in until the readers have taken theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from server.errors import Busy

_RETRY_AFTER_S = 2.0  # bodies arrive and answers leave within seconds


class Hold:
    """What one request, job or cache holds of the budget."""

    def __init__(self, budget: Budget, principal: str, *, of_a_job: bool = False) -> None:
        self._budget = budget
        self.principal = principal
        self.of_a_job = of_a_job
        self.size = 0  # bytes

    def take(self, size: int, *, owed: bool = False) -> None:
        """Hold ``size`` bytes more. Raises Busy when there is no room, unless the server owes them."""
        if size > 0:
            self._budget.take(self, size, owed=owed)

    async def wait(self, size: int, *, within_s: float) -> None:
        """Take ``size`` bytes as soon as there is room. Raises Busy when there is none in time."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        while True:
            try:
                return self.take(size)
            except Busy:
                if loop.time() >= deadline_s:
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline_s):
                    await self._budget.given()

    def give(self, size: int) -> None:
        """Hold ``size`` bytes less."""
        self._budget.give(self, min(size, self.size))

    def close(self) -> None:
        """Hold nothing any more."""
        self._budget.give(self, self.size)


class Budget:
    """``limit`` bytes for everybody. ``reclaim`` is told how many bytes are missing, and may give back some."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reclaim: Callable[[int], None] = lambda missing: None
        self._held = 0
        self._of: dict[str, dict[Hold, None]] = {}  # the holds that are not empty, by principal
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        return self._held

    @contextlib.contextmanager
    def hold(self, principal: str, *, of_a_job: bool = False) -> Iterator[Hold]:
        """An empty hold, closed at the end. ``of_a_job``: a share was granted to the request that began the job."""
        opened = Hold(self, principal, of_a_job=of_a_job)
        try:
            yield opened
        finally:
            opened.close()

    def take(self, hold: Hold, size: int, *, owed: bool) -> None:
        """What ``Hold.take`` does."""
        if not owed and (missing := self._missing(hold, size)) > 0:
            self.reclaim(missing)
            if self._missing(hold, size) > 0:
                raise Busy(
                    "The server holds as many bytes of requests and answers as it may, or this key its share of them;"
                    " send the request again.",
                    retry_after_s=_RETRY_AFTER_S,
                )
        hold.size += size
        self._held += size
        self._of.setdefault(hold.principal, {})[hold] = None

    def give(self, hold: Hold, size: int) -> None:
        """What ``Hold.give`` does."""
        hold.size -= size
        self._held -= size
        own = self._of.get(hold.principal, {})
        if not hold.size:
            own.pop(hold, None)
        if not own:
            self._of.pop(hold.principal, None)

        for waiting in self._waiting if size else ():
            if not waiting.done():
                waiting.set_result(None)
        if size:
            self._waiting.clear()

    async def given(self) -> None:
        """Return when somebody has given something back."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await waiting
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def _missing(self, hold: Hold, size: int) -> int:
        """How many bytes others must give back before this hold may take ``size``."""
        own = self._of.get(hold.principal, {})
        others = sum(map(len, self._of.values())) - (hold in own)
        if others <= hold.of_a_job:
            return 0  # nothing else is held, but perhaps by the request that began this job
        missing = self._held + size - self.limit
        if hold.of_a_job or set(own) <= {hold}:
            return missing
        return missing + size + sum(other.size for other in own)
