"""The host's waits for the device, each with the lines that caused it. Knows stacks; knows no tensors."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_OWN = str(Path(__file__).parent)
_ROOT = str(Path(__file__).parents[2]) + "/"
_LINES = 2  # of a stack: who waits, and who called it
_SILENT = tuple(f"/site-packages/{name}/" for name in ("torch", "_pytest", "pluggy"))


class Wait(NamedTuple):
    """Why the host waited, where, and in which thread; ``stream`` is "default" or "side"."""

    kind: str
    site: str
    thread: str = "MainThread"
    stream: str = "default"


class Waits:
    """A count of waits."""

    def __init__(self) -> None:
        self.counts: Counter[Wait] = Counter()

    def note(self, kind: str, stream: str) -> None:
        """Count a wait of the line that is now running."""
        self.counts[Wait(kind, site(), threading.current_thread().name, stream)] += 1

    def __len__(self) -> int:
        return self.counts.total()

    def of(self, *, kind: str = "", site: str = "", thread: str = "") -> int:
        """How many have these words in their kind, their lines and their thread's name."""
        return sum(
            count
            for wait, count in self.counts.items()
            if kind in wait.kind and site in wait.site and thread in wait.thread
        )

    def clear(self) -> None:
        self.counts.clear()

    def table(self, most: int = 30) -> str:
        """The most frequent, one a line."""
        return "\n".join(f"{count:6}  {wait.kind:14} {wait.site}" for wait, count in self.counts.most_common(most))


def site() -> str:
    """The innermost lines of code that are neither torch's, nor Python's, nor the fake device's."""
    return " < ".join(line for line, _ in zip(_frames(), range(_LINES), strict=False))


def _frames() -> Iterator[str]:
    frame = sys._getframe(1)
    while (caller := frame.f_back) is not None:
        frame = caller
        path = frame.f_code.co_filename
        if _tells(path):
            yield f"{path.rpartition('site-packages/')[2].removeprefix(_ROOT)}:{frame.f_lineno} {frame.f_code.co_name}"


def _tells(path: str) -> bool:
    """Whether a frame of this file says who waits."""
    if path.startswith(_OWN):
        return Path(path).name.startswith("test_")
    if "/site-packages/" in path:
        return not any(name in path for name in _SILENT)
    return path.startswith(_ROOT)
