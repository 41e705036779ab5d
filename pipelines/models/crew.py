"""A crew: threads that each compute on one core, beside an engine that computes on all.

Knows torch's threads; knows neither pictures nor models. Parts of a picture need nothing of each other: a thread for
each part waits for none, whereas torch's own threads wait for each other after each operator, and where the cores are
wanted by others too, most of the time is spent on that. It also keeps the number of torch's own threads in the process
as it is: OpenMP keeps helpers for every thread that has computed on several cores, and once there are more of them than
cores they sleep at every barrier, the engine's too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import torch


class Crew:
    """So many threads of one core each, begun when first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._begun = threading.Barrier(threads + 1)
        self._lock = threading.Lock()

    def run(self, work: Iterable[Callable[[], None]], done: Callable[[], None]) -> None:
        """Do all of ``work``; ``done`` is called after each, on this thread. The first error of either ends it, and is
        raised once nothing is under way any more."""
        pool = self._started()
        waiting = {pool.submit(each) for each in work}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                    done()
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                whole = torch.get_num_threads()
                self._pool = ThreadPoolExecutor(self.threads, "upscale", initializer=self._begin)
                for _ in range(self.threads):
                    self._pool.submit(int)
                self._begun.wait()
                # The number is a thread's own, but also what threads that begin later get: the engine's is given back.
                torch.set_num_threads(whole)
            return self._pool

    def _begin(self) -> None:
        torch.get_num_threads()  # by which torch takes this thread for begun: later it would set the number anew
        torch.set_num_threads(1)
        self._begun.wait()
