"""What a row of a step costs on this device, and how many rows a step should have.

Knows seconds and rows; knows neither tensors nor who waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_KNEE = 0.95  # of the device's best rows per second
_WORTH = 0.92  # of what the most rows bring, by the line
_MIN_SAMPLES = 4  # for a line
_MAX_OFF = 0.05  # of what a step takes: farther from a line, it is not on it
_LEAST_ERROR = 0.01
# What a row takes at least, of its part of the step, while no step had eight times the rows of another: two sizes that
# are near each other differ by less than a busy machine adds, and rows would seem to be free.
_LEAST_SLOPE, _FAR = 0.25, 8
# The least where figures may be wrong: taken on a busy machine, they once bounded batches at 4 rows, at a third of the
# pictures a second. A device that keeps its own time gives sure ones, and the least there is one request
# (bench/order.py).
MIN_ROWS, MAX_ROWS = 8, 64
# What the rows of a step may take at most, be they fewer than the least: for so long nobody joins, leaves or moves on.
MAX_STEP_S = 2.0

_SPARE = 1.25  # times as many rows may share a step where then none is left out

BUCKETS = (1, 2, 4, 8, 16, 32)  # rows of a compiled module's calls


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step: ``fixed_s + row_s × rows``, at ``area`` latent elements a row.

    ``peak_rows``: with more, rows per second rose no further, as on a device that is full, or fell, as where a batch
    outgrows a cache; None where none was seen. ``is_full``: with so many, they reach the knee. ``min_rows``: a step may
    have so many, whatever they cost.
    """

    fixed_s: float
    row_s: float
    area: int
    peak_rows: int | None = None
    min_rows: int = MIN_ROWS
    is_full: bool = False

    def most_rows(self, area: int) -> int:
        """How many rows of ``area`` make a step worth its time, in 2 s: those with which a device is full, if that was
        seen, else 0.92 of the rows per second of a step with the most that one may have.

        Runs that share a step end together: of equal ones that wait, more rows for the last twelfth of the rate would
        make most wait longer. By the line, sqrt(fixed / row × waiting) rows give the least mean.
        """
        row_s = self.row_s * area / self.area
        if row_s <= 0:
            return max(self.min_rows, MAX_ROWS)
        wanted = _WORTH * MAX_ROWS / (self.fixed_s + row_s * MAX_ROWS)  # rows / (fixed + row × rows) reaches it at:
        knee = self.fixed_s * wanted / (1 - row_s * wanted)
        if self.peak_rows is not None:
            peak = self.peak_rows * self.area / area
            knee = peak if self.is_full else min(knee, peak)
        patient = int(MAX_STEP_S / row_s)
        return max(1, min(patient, max(self.min_rows, min(MAX_ROWS, round(knee)))))


def with_all(bound: int, waiting: int) -> int:
    """The most rows of a step, where ``bound`` is worth its time and ``waiting`` rows wait: all of them, if these are
    not many more.

    A few left out would wait for many steps, and then run in a step of their own (bench/order.py).
    """
    return waiting if bound < waiting <= _SPARE * bound else bound


def bucket(rows: int) -> int:
    """The rows that a compiled module is called with for so many: more than the largest bucket has, as they are."""
    return next((size for size in BUCKETS if size >= rows), rows)


def fit_cost(
    samples: Sequence[tuple[int, float]],
    area: int,
    *,
    min_rows: int = MIN_ROWS,
    errors: Sequence[float] | None = None,
) -> StepCost:
    """The cost that (rows, seconds) samples tell, by growing rows. ``errors`` say by which part of itself each may be
    wrong; all alike if they are not given.

    Least squares, up to where more rows bring less. Samples that are on no line, as launching a step may take the host
    longer than few rows take the device, tell by their rates which rows fill it. No rate is believed to be the best
    before it is sure.
    """
    errors = errors or [0.0] * len(samples)
    rates = [rows / seconds * max(0.1, 1 - 2 * error) for (rows, seconds), error in zip(samples, errors, strict=True)]
    peak = rates.index(max(rates))
    # Nor is one believed to be lower before that is sure.
    most = [rows / seconds * (1 + 2 * error) for (rows, seconds), error in zip(samples, errors, strict=True)]
    falls = any(rate < _KNEE * rates[peak] for rate in most[peak:])
    rising = samples[: max(peak + 1, _MIN_SAMPLES)] if falls else samples
    errors = errors[: len(rising)]
    weights = [(seconds * max(error, _LEAST_ERROR)) ** -2 for (_, seconds), error in zip(rising, errors, strict=True)]
    fixed, slope = _line(rising, weights)
    if all(
        abs(fixed + slope * rows - seconds) <= (_MAX_OFF + 2 * error) * seconds
        for (rows, seconds), error in zip(rising, errors, strict=True)
    ):
        rows, step_s = rising[-1][0], fixed + slope * rising[-1][0]
        if rows < _FAR * rising[0][0]:
            slope = max(slope, _LEAST_SLOPE * step_s / rows)
        return StepCost(max(0.0, step_s - slope * rows), slope, area, rows if falls else None, min_rows)
    best_s = samples[peak][1] / samples[peak][0]
    return _full_from(_filling(samples, rates) or MAX_ROWS, best_s, area, min_rows)


def _line(samples: Sequence[tuple[int, float]], weights: Sequence[float]) -> tuple[float, float]:
    """The fixed seconds, and those a row."""
    total = sum(weights)
    mean_rows = sum(weight * rows for weight, (rows, _) in zip(weights, samples, strict=True)) / total
    mean_s = sum(weight * seconds for weight, (_, seconds) in zip(weights, samples, strict=True)) / total
    spread = slope = 0.0
    for weight, (rows, seconds) in zip(weights, samples, strict=True):
        spread += weight * (rows - mean_rows) ** 2
        slope += weight * (rows - mean_rows) * (seconds - mean_s)
    slope = max(slope / spread, 1e-9) if spread else mean_s / mean_rows
    return mean_s - slope * mean_rows, slope


def _full_from(rows: int, row_s: float, area: int, min_rows: int) -> StepCost:
    """The cost of a device that so many rows fill, up to 0.95 of its best; its fixed part is what they do not use."""
    return StepCost(rows * row_s * (1 - _KNEE) / _KNEE, row_s, area, rows, min_rows, is_full=True)


def _filling(samples: Sequence[tuple[int, float]], rates: Sequence[float]) -> int | None:
    """The fewest rows that bring 0.95 of the best rows per second of all samples, between two of them in proportion;
    None where the rate still rises with the last."""
    enough = _KNEE * max(rates)
    at = next(index for index, rate in enumerate(rates) if rate >= enough)
    if at == len(samples) - 1:
        return None
    if at == 0:
        return samples[0][0]
    fewer, more = samples[at - 1][0], samples[at][0]
    return round(fewer + (more - fewer) * (enough - rates[at - 1]) / (rates[at] - rates[at - 1]))
