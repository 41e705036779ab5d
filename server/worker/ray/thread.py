"""The thread that speaks to Ray where Ray blocks. Knows calls and futures; knows no Ray."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class RayThread(threading.Thread):
    """The thread that starts Ray and ends it.

    Not the main thread, where Ray would take SIGTERM over, and the server would not drain. It lives as long as the
    process: the kernel kills what Ray has started when the thread ends that started it.
    """

    def __init__(self) -> None:
        super().__init__(name="ray", daemon=True)
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Call this after all that was submitted before."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    async def submit_if_started(self, call: Callable[[], Any]) -> None:
        """The same, and wait for it; nothing where the thread was never started, and would never come to it."""
        if self.is_alive():
            await asyncio.wrap_future(self.submit(call))

    def run(self) -> None:
        while True:
            future, call = self._calls.get()
            if not future.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                future.set_result(call())
            except BaseException as error:  # for whoever waits
                future.set_exception(error)
