"""Whose turn it is between two steps: what else runs do there may hold up no denoiser's next step for long.

Knows stages, and what forwards cost; knows neither tensors nor runs. A crowd that arrives together has its prompts
encoded, and one that ends together its pictures decoded, while others draw. Between two steps of a denoiser goes one
decode at most, and one forward of a text encoder, or as many as take together what the step took. Where no run waits
for a denoiser, nobody is held up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from pipelines.engine.shared import SharedModule, Stage


class Waiting(Protocol):
    """What is read of a waiting call."""

    @property
    def shared(self) -> SharedModule: ...


W = TypeVar("W", bound=Waiting)


class Turns:
    """What has gone between the last step of a denoiser and the next."""

    def __init__(self, *, encodes_first: bool = False) -> None:
        """``encodes_first``: all prompts that wait are encoded before any step, however long that takes."""
        self._encodes_first = encodes_first
        self._decoded = False
        self._encoded_s = 0.0
        self._step_s = 0.0  # of the last step; 0 while that is not known

    def due(self, waiting: Sequence[W]) -> list[W]:
        """Those that may go next, of all that wait (not empty)."""
        over = set()
        if self._decoded:
            over.add(Stage.DECODE)
        if self._encoded_s > 0 and self._encoded_s >= self._step_s and not self._encodes_first:
            over.add(Stage.ENCODE)
        if not over:
            return list(waiting)
        return [call for call in waiting if call.shared.stage not in over] or list(waiting)

    def took(self, shared: SharedModule, rows: int, area: int) -> None:
        """A forward of so many rows of ``area`` elements went."""
        if shared.stage is Stage.DENOISE:
            seconds = _seconds(shared, rows, area)
            self._decoded, self._encoded_s, self._step_s = False, 0.0, 0.0 if seconds is None else seconds
        elif shared.stage is Stage.DECODE:
            self._decoded = True
        elif shared.stage is Stage.ENCODE:
            seconds = _seconds(shared, rows, area)
            self._encoded_s += math.inf if seconds is None else seconds


def _seconds(shared: SharedModule, rows: int, area: int) -> float | None:
    """What such a forward takes, as far as that is known."""
    cost = shared.costs.cost(area)
    return None if cost is None else cost.fixed_s + cost.row_s * area / cost.area * rows
