"""The other end of server/commands/child.py: a process that is asked one thing, and answers in lines of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

_REPORT_BYTES = 32 * 1024 * 1024


def main(answer: Callable[[dict[str, Any], TextIO], None]) -> None:
    """Answer the JSON object of standard input on what was standard output."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is no line of ours
    answer(json.load(sys.stdin), out)


def say(out: TextIO, **said: Any) -> None:
    """Write one line of an answer."""
    out.write(json.dumps(said) + "\n")
    out.flush()


class Progress:
    """Adds up bytes, and tells them in steps that can be seen."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._bytes = 0

    def __call__(self, more: int) -> None:
        """So many bytes more."""
        self._bytes += more
        if self._bytes >= _REPORT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Tell what has not been told."""
        self._tell(self._bytes)
        self._bytes = 0
