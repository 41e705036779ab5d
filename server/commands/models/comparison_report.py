"""What ``darkroom models compare`` found, in words and figures for whoever runs a server.

Knows what was asked for and found; draws nothing and judges nothing that pipelines/facts/comparison.py does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.facts import comparison as facts
from pipelines.facts.comparison import Company, Comparison, Difference, Found, LeftOut, Likeness, Nearer

if TYPE_CHECKING:
    from rich.table import Table

_UNFOLDED = 200  # columns where a program reads
_CONCLUSIONS = {
    Nearer.CACHED: "The step cache comes nearer than as many plain steps: it is worth having here",
    Nearer.PLAIN: "As many plain steps come nearer than the step cache: leave it off here, and lower the steps instead",
    Nearer.UNCLEAR: (
        f"No clear difference (less than {facts.MIN_CLEAR_DB:g} dB, or prompts that disagree): more --prompts tell more"
    ),
}


@dataclass(frozen=True)
class Basis:
    """Which requests were compared."""

    quality: str
    sampler: str
    obstacle: str | None  # why the step cache cannot act on them; None: it may


def show(name: str, asked: Comparison, found: Found, basis: Basis, tolerance: float) -> None:
    """Print it all on standard output. ``tolerance`` is in levels of 255."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _UNFOLDED, highlight=False, markup=False)
    for part in _parts(name, asked, found, basis, tolerance):
        console.print(part)


def _parts(name: str, asked: Comparison, found: Found, basis: Basis, tolerance: float) -> Iterator[Table | str]:
    spec = asked.specs[0]
    size = f"{spec.draw_width}x{spec.draw_height}"
    yield (
        f"{name} on {found.device}, {found.dtype}: {len(asked.specs)} prompts, {size}, quality {basis.quality}"
        f" ({spec.steps} steps, {basis.sampler}, guidance {spec.guidance:g})"
    )
    yield "Differences are in levels of 255, before pictures become bytes; p99 is the worst picture's."
    yield ""
    yield _sharing(found)
    yield from _remarks(found)
    within = "within" if found.within(tolerance) else "NOT within"
    yield f"Sharing steps: p99 {within} the tolerance of {tolerance:g}."
    yield ""
    if found.left_out is not None:
        yield from _left_out(asked, found.left_out)
    else:
        why = basis.obstacle or f"none of the {asked.steps} steps was left out"
        yield f"Step cache: it cannot act here, so there is nothing to compare: {why}."


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _sharing(found: Found) -> Table:
    table = _table("drawn alone, against drawn", "max", "mean", "p99", "rows a forward")
    for each in found.shared:
        name = str(each.company)
        if each.company is Company.WITHOUT:
            name = f"with LoRAs ({', '.join(adapter.name for adapter in found.adapters)}), beside others without"
        table.add_row(name, *_cells(each.difference), f"{each.rows:.1f}")
    return table


def _remarks(found: Found) -> list[str]:
    """What else is to be known, where there is something."""
    lines = [f"Alone, a forward has {found.rows_alone:.1f} rows."]
    if max(each.rows for each in found.shared) <= found.rows_alone:
        lines.append("No step was shared: on this device more rows a forward gain nothing.")
    if not found.mixed:
        lines.append("Runs with different LoRAs share no steps: the check at load found that they differ together.")
    lines += [f"LoRA {adapter} was not drawn with: {why}" for adapter, why in found.broken.items()]
    if found.retried:
        lines.append(f"{found.retried} shared steps failed and were tried again alone: the log of a server says why.")
    if found.out_of_memory:
        lines.append(f"The device was short of memory {found.out_of_memory} times, and batches were made smaller.")
    return lines


def _left_out(asked: Comparison, found: LeftOut) -> Iterator[Table | str]:
    spent = sum(found.computed) / len(found.computed)
    cached, plain = f"step cache {asked.step_cache:g}", f"{_range(found.computed)} plain steps"
    yield f"Step cache: {spent:.1f} of {asked.steps} steps were computed; beside it, as many plain steps."
    yield ""
    apart = _table(f"against all {asked.steps} steps", "max", "mean", "p99", "PSNR, dB", "SSIM")
    apart.add_row(cached, *_cells(found.cached), *_near(found.cached_to_full))
    apart.add_row(plain, *_cells(found.plain), *_near(found.plain_to_full))
    yield apart
    yield ""
    near = _table(
        f"against {found.converged_steps} steps, taken for converged", "PSNR, dB", "SSIM", "nearer (PSNR, SSIM)"
    )
    ours, theirs, count = found.cached_near, found.plain_near, len(found.computed)
    near.add_row(f"all {asked.steps} steps", *_near(found.full), "")
    near.add_row(cached, *_near(ours), _wins(ours, theirs, count))
    near.add_row(plain, *_near(theirs), _wins(theirs, ours, count))
    yield near
    yield f"PSNR and SSIM are medians. {_CONCLUSIONS[facts.nearer(found)]}."


def _wins(ours: Likeness, theirs: Likeness, count: int) -> str:
    """By PSNR, and by SSIM."""
    return f"{facts.wins(ours.psnr, theirs.psnr)}, {facts.wins(ours.ssim, theirs.ssim)} of {count}"


def _range(counts: tuple[int, ...]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _cells(difference: Difference) -> tuple[str, str, str]:
    return _levels(difference.max), _levels(difference.mean), _levels(difference.p99)


def _levels(value: float) -> str:
    if value < 0.01:
        return f"{value:.1g}"  # of float32 in company: 0.0004
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _near(likeness: Likeness) -> tuple[str, str]:
    return f"{facts.median(likeness.psnr):.1f}", f"{facts.median(likeness.ssim):.4f}"
