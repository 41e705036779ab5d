"""What a step of a model takes on a device, as the fleet reckons with it. Knows seconds, rows and pixels alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a step of a model takes on a device: ``fixed_s + row_s × rows``, with rows of ``pixels``."""

    fixed_s: float
    row_s: float
    pixels: int
    most_rows: int  # of one step, with so many pixels
    steps: int = 0  # that it was learnt from, since the load
    guess: bool = False  # were they too few?

    def row(self, pixels: int) -> float:
        """Seconds of a row of another size."""
        return self.row_s * pixels / self.pixels

    def knee(self, pixels: int) -> int:
        """The most rows of a step, of another size."""
        return max(1, self.most_rows * self.pixels // pixels)
