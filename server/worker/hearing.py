"""When a worker was last heard: of what it loads, and of what it draws.

Knows messages and times; knows neither processes nor deadlines. The two share a process, and one may hang while the
other goes on: a sign of life of one is none of the other's.
"""

from __future__ import annotations

import time

from server.worker import protocol


class Hearing:
    """The last signs of life of one worker process. All times are monotonic."""

    def __init__(self) -> None:
        self._any_s = self._drawing_s = time.monotonic()
        self._load_s: float | None = None  # while a load is under way that waits for nothing

    def hear(self, message: protocol.ToFront) -> None:
        """The worker has said this."""
        self._any_s = time.monotonic()
        if isinstance(message, protocol.LoadProgress):
            self._load_s = self._any_s
            return
        self._drawing_s = self._any_s
        if isinstance(message, protocol.Moved):  # one load at a time: it has ended, or the next has yet to begin
            self._load_s = None

    def begin(self) -> None:
        """Something is asked of a worker that was idle: it owed no sign of life, and from here on it does."""
        self._any_s = time.monotonic()

    def begin_drawing(self, *, idle: bool, draws: bool) -> None:
        """The same of a drawing, unless the worker ``draws`` already; was it ``idle``, it owed no sign at all."""
        if idle:
            self.begin()
        if not draws:
            self._drawing_s = time.monotonic()

    def silent_s(self, *, loads: bool, draws: bool) -> float:
        """How long it has been silent, in seconds; while it ``loads``, of that or of what it ``draws``, whichever is
        longer."""
        heard_s = [self._any_s]
        if loads and self._load_s is not None:
            heard_s.append(self._load_s)
        if loads and draws:
            heard_s.append(self._drawing_s)
        return time.monotonic() - min(heard_s)
