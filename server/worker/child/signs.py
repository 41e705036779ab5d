"""Signs of life of a load: they become messages, by which the front tells a load that goes on from one that hangs.

Knows what a load does one after another, and the front's messages; knows neither models nor devices. Nothing is said of
a load that stands still: neither a forward that never returns, nor a disk that gives nothing, is a sign of life.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable

from pipelines.plan import ModelPlan
from server.worker import protocol
from server.worker.child.link import Link

_INTERVAL_S = 1.0


def _pages_read() -> int:
    """How much this process has had from disks and from swap, in no unit: weights that are mapped come as page faults,
    also in a forward."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_inblock + usage.ru_majflt


class LoadSigns:
    """The signs of life of one load: the first as the block begins, then one a second at most, from any thread."""

    def __init__(self, link: Link, plan: ModelPlan, read: Callable[[], int] = _pages_read) -> None:
        self._link = link
        self._plan = plan
        self._read = read
        self._components = self._forwards = 0
        self._told_s = 0.0  # monotonic
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._look, name="load-signs", daemon=True)

    def component(self) -> None:
        """A component is there."""
        self._components += 1
        self._tell()

    def forward(self) -> None:
        """The check at load has done a forward, or a decode."""
        self._forwards += 1
        self._tell()

    def __enter__(self) -> LoadSigns:
        self._say()
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._reader.join()

    def _look(self) -> None:
        """Tell that more was read, too: of one component, as large as it may be and as slow as the disk."""
        seen = self._read()
        while not self._ended.wait(_INTERVAL_S):
            before, seen = seen, self._read()
            if seen > before:
                self._tell()

    def _tell(self) -> None:
        if time.monotonic() - self._told_s >= _INTERVAL_S:
            self._say()

    def _say(self) -> None:
        self._told_s = time.monotonic()
        plan = self._plan
        self._link.send(protocol.LoadProgress(plan.key, self._components, self._forwards, plan.mark))
