"""Tiles: how a picture is cut into overlapping parts that come out as in the whole, and when to enlarge it again.

Knows arithmetic on sizes; no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

_ROUNDING = 1e-6  # of a factor


@dataclass(frozen=True)
class Span:
    """Along one side, in pixels: what is looked at, and what comes out of it."""

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def core(self) -> slice:
        """What comes out, in the picture."""
        return slice(self.core_start, self.core_stop)

    @property
    def seen(self) -> slice:
        """What is looked at, in the picture."""
        return slice(self.start, self.stop)

    @property
    def inner(self) -> slice:
        """What comes out, in what is looked at."""
        return slice(self.core_start - self.start, self.core_stop - self.start)


@dataclass(frozen=True)
class Tile:
    """A part of a picture."""

    down: Span
    across: Span


def spans(length: int, parts: int, overlap: int, multiple: int = 1) -> list[Span]:
    """``length`` pixels in at most so many parts of about one size, each with ``overlap`` pixels more around it where
    the picture has them. All look at as many pixels, so that they can be batched; all are multiples of ``multiple``,
    as ``length`` and ``overlap`` must be."""
    core = ceil(length / parts / multiple) * multiple
    seen = min(length, core + 2 * overlap)
    found = []
    for begin in range(0, length, core):
        start = min(max(0, begin - overlap), length - seen)
        found.append(Span(start, start + seen, begin, min(length, begin + core)))
    return found


def tiles(height: int, width: int, side: int, overlap: int, *, multiple: int = 1, at_least: int = 1) -> Iterator[Tile]:
    """A picture in tiles whose cores have sides of at most ``side`` pixels, about; in ``at_least`` so many, where it is
    large enough for that to be worth its overlaps."""
    rows, columns = ceil(height / side), ceil(width / side)
    if rows * columns < at_least and height * width >= at_least * (4 * overlap) ** 2:
        if height >= width:
            rows = ceil(at_least / columns)
        else:
            columns = ceil(at_least / rows)
    across = spans(width, columns, overlap, multiple)
    for down in spans(height, rows, overlap, multiple):
        yield from (Tile(down, each) for each in across)


@dataclass(frozen=True)
class Pass:
    """One application of a network that enlarges by a whole number."""

    before: float = 1.0  # the picture is made smaller by this first
    pool: int = 1  # and so many pixels of what comes out, squared, are made one

    def shrunk(self, height: int, width: int) -> tuple[int, int]:
        """What the network is given of a picture of this size."""
        return max(1, round(height * self.before)), max(1, round(width * self.before))


def passes(scale: int, factor: float) -> list[Pass]:
    """The applications of a network of this ``scale`` that make a picture at least ``factor`` times as large, and less
    than twice that. What was drawn is never made smaller before; what a pass has made is, for that saves most of the
    next."""
    reached, found = 1.0, list[Pass]()
    while reached < factor * (1 - _ROUNDING):
        left = factor / reached
        step = Pass()
        if not found:
            pools = (pool for pool in range(scale, 0, -1) if scale % pool == 0)
            step = Pass(pool=next(pool for pool in pools if scale / pool >= left or pool == 1))
        elif scale / left >= 2:
            step = Pass(before=left / scale)
        found.append(step)
        reached *= step.before * scale / step.pool
    return found
