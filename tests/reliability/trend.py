"""Does a figure grow with time? The slope of a straight line through it, and how steep it may really be.

Knows numbers; knows nothing of what they measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z = 1.959963984540054  # the normal distribution's 97.5 %


@dataclass(frozen=True)
class Trend:
    """A slope, and the upper end of its 95 % interval; both a unit of time."""

    slope: float
    upper: float


def trend(segments: Sequence[Sequence[tuple[float, float]]]) -> Trend:
    """The common slope of (time, figure) in several segments, each with a level of its own. NaN if there are too few.

    Figures that follow each other are alike, and a plain regression would take them for news: the error is widened by
    the residuals' correlation with those before them.
    """
    kept = [np.asarray(segment, dtype=float) for segment in segments if len(segment) > 2]
    if not kept:
        return Trend(math.nan, math.nan)
    centred = [segment - segment.mean(axis=0) for segment in kept]
    t = np.concatenate([segment[:, 0] for segment in centred])
    y = np.concatenate([segment[:, 1] for segment in centred])
    freedom = len(t) - len(kept) - 1
    if freedom < 1 or not t.any():
        return Trend(math.nan, math.nan)
    slope = float(t @ y / (t @ t))
    rest = y - slope * t
    error = math.sqrt(float(rest @ rest) / freedom / float(t @ t))
    alike = max(0.0, min(0.99, float(rest[:-1] @ rest[1:]) / float(rest @ rest))) if rest.any() else 0.0
    return Trend(slope, slope + _student(freedom) * error * math.sqrt((1 + alike) / (1 - alike)))


def _student(freedom: int) -> float:
    """Student's t at 97.5 %, by the first terms of its expansion: 1 % too small at 5 degrees of freedom."""
    z = _Z
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
