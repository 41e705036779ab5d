"""What a section of the doctor says: figures, and verdicts against a bound named beside them.

Knows neither devices nor models, nor who reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """PASS: as it should be. LOOK: for a person to judge. FAIL: wrong."""

    PASS = "PASS"  # noqa: S105, no password
    LOOK = "LOOK"
    FAIL = "FAIL"


class Record:
    """Hands on each figure and verdict as soon as it is known, so that a run that is cut off has told what it found."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        self._emit = emit

    def figures(self, **figures: Any) -> None:
        self._emit({"figures": {name: _short(value) for name, value in figures.items()}})

    def judge(self, good: bool, says: str, *, otherwise: Verdict = Verdict.FAIL) -> None:
        """PASS where it is ``good``, else FAIL or what ``otherwise`` is."""
        self.say(Verdict.PASS if good else otherwise, says)

    def say(self, verdict: Verdict, says: str) -> None:
        self._emit({"verdict": str(verdict), "says": says})


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(key): _short(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    return value if isinstance(value, int | str | bool | None) else str(value)
