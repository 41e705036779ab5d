"""The process in which ``darkroom check`` builds models without their weights: the front has no torch.

Reads one JSON object from standard input, ``{"plans": {KEY: PLAN}, "deep": false}``; writes a line of JSON for each
plan as it is done, and with ``deep`` one now and then for the bytes that were read. Knows neither models.yaml nor
HTTP; fetches nothing.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

import msgspec

from pipelines.plan import ModelPlan

_REPORT_BYTES = 32 * 1024 * 1024


def main() -> None:
    """Check the plans of standard input, and say of each what is wrong with it."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is no line of ours
    answer(json.load(sys.stdin), out)


def answer(asked: dict[str, Any], out: TextIO) -> None:
    """Write what is wrong with each plan that is asked for."""
    try:
        from pipelines.models import dry_run, loader
    except ImportError as error:
        _say(out, missing=str(error))
        return
    loader.quiet_libraries()
    for key, plan in asked["plans"].items():
        progress = _Progress(out, key) if asked["deep"] else None
        problem = dry_run.problem(msgspec.convert(plan, ModelPlan), progress)
        if progress is not None:
            progress.flush()
        _say(out, key=key, problem=problem)


def _say(out: TextIO, **said: Any) -> None:
    out.write(json.dumps(said) + "\n")
    out.flush()


class _Progress:
    """Adds up what was read, and says so in steps that can be seen."""

    def __init__(self, out: TextIO, key: str) -> None:
        self._out = out
        self._key = key
        self._bytes = 0

    def __call__(self, read: int) -> None:
        self._bytes += read
        if self._bytes >= _REPORT_BYTES:
            self.flush()

    def flush(self) -> None:
        _say(self._out, key=self._key, read=self._bytes)
        self._bytes = 0


if __name__ == "__main__":
    main()
