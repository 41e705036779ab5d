"""What every scenario here does with its figures: percentiles, ratios, and Markdown tables on screen and in a file."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

OUT = Path(__file__).parent / "out"  # ignored by git


def percentile(values: Iterable[float], percent: float) -> float:
    """Between the two nearest of ``values`` (not empty), as numpy's default."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def machine() -> str:
    """One line that says what the figures were taken on; a load beyond the cores means that others were at work."""
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} torch threads, torch {torch.__version__}, load average {load:.1f}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table: the first column to the left, the rest to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def publish(name: str, *parts: str) -> None:
    """Print the parts and keep them in bench/out/NAME.md."""
    text = "\n\n".join((*parts, f"Taken on: {machine()}.")) + "\n"
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {path}")
