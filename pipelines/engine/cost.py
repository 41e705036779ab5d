"""What a row of a step costs on this device, and how many rows a step should have.

Knows seconds and rows; knows neither tensors nor who waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_KNEE = 0.95  # of the device's best rows per second
_MIN_SAMPLES = 4  # for a line
_MAX_SCATTER = 0.1  # of the mean step time, root mean square
# The least where figures may be wrong: taken on a busy machine, they once bounded batches at 4 rows, at a third of the
# pictures a second. A device that is waited for gives sure ones, and the least there is one request (bench/order.py).
MIN_ROWS, MAX_ROWS = 8, 64
# What the rows of a step may take at most, be they fewer than the least: for so long nobody joins, leaves or moves on.
_ROWS_S = 2.0

BUCKETS = (1, 2, 4, 8, 16, 32)  # rows of a compiled module's calls


@dataclass(frozen=True)
class StepCost:
    """Measured seconds of one step: ``fixed_s + row_s × rows``, at ``area`` latent elements a row.

    ``peak_rows``: with more, rows per second rose no further, as on a device that is full, or fell, as where a batch
    outgrows a cache; None where none was seen. ``min_rows``: a step may have so many, whatever they cost.
    """

    fixed_s: float
    row_s: float
    area: int
    peak_rows: int | None = None
    min_rows: int = MIN_ROWS

    def most_rows(self, area: int) -> int:
        """How many rows of ``area`` make a step worth its time: 0.95 of what the device can do at best, in 2 s.

        rows / (fixed + row × rows) reaches the fraction k of its limit 1 / row at rows = fixed / row × k / (1 - k).
        """
        row_s = self.row_s * area / self.area
        knee = self.fixed_s / row_s * _KNEE / (1 - _KNEE) if row_s > 0 else MAX_ROWS
        if self.peak_rows is not None:
            knee = min(knee, self.peak_rows * self.area / area)
        patient = int(_ROWS_S / row_s) if row_s > 0 else MAX_ROWS
        return max(1, min(patient, max(self.min_rows, min(MAX_ROWS, round(knee)))))


def bucket(rows: int) -> int:
    """The rows that a compiled module is called with for so many: more than the largest bucket has, as they are."""
    return next((size for size in BUCKETS if size >= rows), rows)


def fit_cost(samples: Sequence[tuple[int, float]], area: int, *, request_rows: int | None = None) -> StepCost | None:
    """Least squares through (rows, seconds) samples, by growing rows, up to the most rows per second; None where they
    are not on a line: a busy machine's figures would bound the rows for as long as the model is loaded.

    ``request_rows`` says that the device was waited for, so that the figures are its own, and how many rows a request
    has. The least a step may have is then one request, and a line is not all that is believed: launching a step may
    take the host longer than few rows take the device, and the rows that fill it are read from the samples.
    """
    peak = max(range(len(samples)), key=lambda index: samples[index][0] / samples[index][1])
    rising = samples[: max(peak + 1, _MIN_SAMPLES)]
    peak_rows = rising[-1][0] if len(rising) < len(samples) else None
    if request_rows is not None:
        peak_rows = _filling(samples)
    n = len(rising)
    mean_rows = sum(rows for rows, _ in rising) / n
    mean_s = sum(seconds for _, seconds in rising) / n
    spread = sum((rows - mean_rows) ** 2 for rows, _ in rising)
    slope = sum((rows - mean_rows) * (seconds - mean_s) for rows, seconds in rising) / spread if spread else mean_s
    slope = max(slope, 1e-9)
    fixed = mean_s - slope * mean_rows
    scatter = math.sqrt(sum((seconds - fixed - slope * rows) ** 2 for rows, seconds in rising) / n)
    min_rows = MIN_ROWS if request_rows is None else request_rows
    if scatter <= _MAX_SCATTER * mean_s:
        return StepCost(max(0.0, fixed), slope, area, peak_rows, min_rows)
    if request_rows is None or peak_rows is None:
        return None
    return StepCost(0.0, samples[peak][1] / samples[peak][0], area, peak_rows, min_rows)


def _filling(samples: Sequence[tuple[int, float]]) -> int | None:
    """The fewest rows that bring 0.95 of the best rows per second of all samples, between two of them in proportion;
    None where the rate still rises with the last."""
    rates = [rows / seconds for rows, seconds in samples]
    enough = _KNEE * max(rates)
    at = next(index for index, rate in enumerate(rates) if rate >= enough)
    if at == len(samples) - 1:
        return None
    if at == 0:
        return samples[0][0]
    fewer, more = samples[at - 1][0], samples[at][0]
    return round(fewer + (more - fewer) * (enough - rates[at - 1]) / (rates[at] - rates[at - 1]))
