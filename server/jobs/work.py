"""The making of one job's outcome, for as many as wait for it.

Knows tasks and who waits; knows nothing of what is made. It goes on while somebody waits, ends early when the last
of them has left, and can be stopped for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

from server.errors import JobCancelled
from server.jobs.job import Job, State

T = TypeVar("T")


class Work(Generic[T]):
    def __init__(self, job: Job, making: Coroutine[Any, Any, T], ended: Callable[[], None]) -> None:
        """Start. ``ended`` is called once, whatever the end: even if ``making`` never came to run."""
        self.job = job
        self.wanted = True  # until it is stopped, or nobody waits any more
        self.waiting = 0  # who attend
        self._task = asyncio.create_task(making, name=job.key)
        self._task.add_done_callback(lambda task: self._settle(ended))
        job.stop = self.stop

    @property
    def succeeded(self) -> bool:
        return self._task.done() and not self._task.cancelled() and self._task.exception() is None

    def stop(self) -> None:
        """End it for all who wait."""
        self.wanted = False
        self._task.cancel()

    def when_done(self, call: Callable[[], None]) -> None:
        self._task.add_done_callback(lambda task: call())

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Wait for it inside. When the last has left, nobody wants it: it is cancelled."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
            if not self.waiting:
                self.stop()

    async def until_ready(self) -> None:
        """Return once only the drawing is left, or raise what stood against it."""
        ready = asyncio.ensure_future(self.job.ready.wait())
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._task.done():
            self.result()

    async def outcome(self) -> T:
        """What was made, or the error that says why not."""
        await asyncio.wait({self._task})  # cancelling us does not cancel the others' work
        return self.result()

    def result(self) -> T:
        if self._task.cancelled():
            raise JobCancelled("The job was cancelled.")
        return self._task.result()

    def _settle(self, ended: Callable[[], None]) -> None:
        if not self._task.cancelled():
            self._task.exception()  # seen, even if everybody has left
        if not self.job.ended.is_set():
            self.job.transition(State.CANCELLED)
        ended()
