"""Off the loop: work whose time grows with what a client sent runs on the event loop if small, on a thread if large.

Knows sizes and threads; knows nothing of the work. Parsing or hashing a body of sixty megabytes takes the loop's time
from everybody; for the usual kilobyte, going to a thread would cost more than the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

_LARGE_BYTES = 256 * 1024

T = TypeVar("T")


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """The result of ``work``, which has about ``size`` bytes to read."""
    return work() if size < _LARGE_BYTES else await anyio.to_thread.run_sync(work)
