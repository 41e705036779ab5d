"""Work: the task that runs one job, for as many as wait for its outcome.

Knows tasks and waiters; knows nothing of what is made. The task runs while somebody waits for it, is cancelled when
the last waiter leaves, and can be cancelled for all of them.
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
    """One job's task and its waiters."""

    def __init__(self, job: Job, life: Coroutine[Any, Any, T], ended: Callable[[], None]) -> None:
        """Start. ``ended`` is called once, whatever the end: even if ``life`` never came to run."""
        self.job = job
        self.wanted = True  # until it is cancelled, or its last waiter has left
        self.waiters = 0
        self._task = asyncio.create_task(life, name=job.key)
        self._task.add_done_callback(lambda task: self._settle(ended))
        job.cancel = self.cancel

    @property
    def succeeded(self) -> bool:
        return self._task.done() and not self._task.cancelled() and self._task.exception() is None

    def cancel(self) -> None:
        """End it for every waiter."""
        self.wanted = False
        self._task.cancel()

    def when_done(self, call: Callable[[], None]) -> None:
        self._task.add_done_callback(lambda task: call())

    @contextlib.contextmanager
    def waiter(self) -> Iterator[None]:
        """Be one of its waiters inside. When the last one leaves, nobody wants the work, and it is cancelled."""
        self.waiters += 1
        try:
            yield
        finally:
            self.waiters -= 1
            if not self.waiters:
                self.cancel()

    async def until_ready(self) -> None:
        """Return once only the drawing is left, or raise the error that came before it."""
        ready = asyncio.ensure_future(self.job.ready.wait())
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._task.done():
            self.result()

    async def outcome(self) -> T:
        """Wait for what is made, or raise the error that says why nothing is."""
        await asyncio.wait({self._task})  # cancelling us does not cancel the work of the other waiters
        return self.result()

    def result(self) -> T:
        """What was made, once the task has ended."""
        if self._task.cancelled():
            raise JobCancelled("The job was cancelled.")
        return self._task.result()

    def _settle(self, ended: Callable[[], None]) -> None:
        if not self._task.cancelled():
            self._task.exception()  # seen, even if everybody has left
        if not self.job.ended.is_set():
            self.job.transition(State.CANCELLED)
        ended()
