"""The meter: for how long the device was busy for each drawing.

Knows calls, their rows and clocks; knows neither runs nor what is made of the seconds. What a forward takes is divided
among its calls by their rows. Forwards follow each other on one thread, so that all shares together are never more than
the time that has passed. The CPU computes while its caller waits: a clock tells. A CUDA device computes while the host
goes on: it notes itself when it begins and ends, and that is read at a later forward, or when a run ends.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from pipelines.engine.call import Call
from pipelines.plan import Drawing

_Shares = list[tuple[Drawing, float]]  # who had how much of a forward; 1 in all


class Meter:
    """Measures the forwards of one engine, on its thread. ``took`` is told of each drawing's seconds."""

    def __init__(self, took: Callable[[Drawing, float], None]) -> None:
        self._took = took
        self._unread: deque[tuple[Any, Any, _Shares]] = deque()  # began, ended, who

    @contextlib.contextmanager
    def time(self, calls: Sequence[Call], device: torch.device) -> Iterator[None]:
        """Measure what is computed in the block for these calls, tries that fail included."""
        rows = sum(call.rows for call in calls)
        shares = [(call.drawing, call.rows / rows) for call in calls]
        if device.type != "cuda":
            began_s = time.perf_counter()
            yield
            self._tell(shares, time.perf_counter() - began_s)
            return
        self._read(wait=False)
        stream = torch.cuda.current_stream(device)
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record(stream)
        yield
        ended.record(stream)
        self._unread.append((began, ended, shares))

    def settle(self) -> None:
        """Tell of all that was measured so far. The device may have to end it first, which whoever fetches pictures
        waits for as well."""
        self._read(wait=True)

    def _read(self, *, wait: bool) -> None:
        while self._unread:
            began, ended, shares = self._unread[0]
            if not ended.query():
                if not wait:
                    return
                ended.synchronize()
            self._unread.popleft()
            self._tell(shares, began.elapsed_time(ended) / 1000)

    def _tell(self, shares: _Shares, seconds: float) -> None:
        for drawing, share in shares:
            self._took(drawing, seconds * share)
