"""Whose turn it is between two steps: what else runs do there may hold up no denoiser's next step for long.

Knows stages, and what forwards cost; knows neither tensors nor runs. A crowd that arrives together has its prompts
encoded, and one that ends together its pictures decoded, while others draw. Between two steps of a denoiser goes one
decode at most, and one forward of a text encoder, or as many as take together what the step took. Runs that have taken
no step yet wait longer for those that came with them: a step that they share takes less than one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from pipelines.engine.cost import MAX_STEP_S
from pipelines.engine.shared import SharedModule, Stage


class Steps(Protocol):
    """How far a run is."""

    @property
    def steps_done(self) -> int: ...


class Waiting(Protocol):
    """What is read of a waiting call."""

    @property
    def shared(self) -> SharedModule: ...
    @property
    def history(self) -> Steps: ...


W = TypeVar("W", bound=Waiting)


class Turns:
    """What has gone between the last step of a denoiser and the next."""

    def __init__(self, *, encodes_first: bool = False) -> None:
        """``encodes_first``: all prompts that wait are encoded before any step, however long that takes."""
        self._encodes_first = encodes_first
        self._decoded = False
        self._encoded_s: float | None = None  # None: nothing
        self._step_s = 0.0  # of the last step

    def due(self, waiting: Sequence[W]) -> list[W]:
        """Those that may go next, of all that wait (not empty)."""
        over = set()
        if self._decoded:
            over.add(Stage.DECODE)
        if self._encoded_s is not None and self._encoded_s >= self._patience_s(waiting):
            over.add(Stage.ENCODE)
        if not over:
            return list(waiting)
        return [call for call in waiting if call.shared.stage not in over] or list(waiting)

    def _patience_s(self, waiting: Sequence[W]) -> float:
        """Seconds that prompts may be encoded before the next step."""
        if self._encodes_first:
            return float("inf")
        begun = any(call.shared.is_denoiser and call.history.steps_done > 0 for call in waiting)
        return self._step_s if begun else max(self._step_s, MAX_STEP_S)

    def took(self, shared: SharedModule, rows: int, area: int, seconds: float) -> None:
        """A forward of so many rows of ``area`` elements went, and took the host so long."""
        if shared.stage is Stage.DECODE:
            self._decoded = True
        elif shared.stage is not Stage.CONTROL:
            cost = shared.costs.cost(area)
            if cost is not None:  # a device goes on when the host is done
                seconds = cost.fixed_s + cost.row_s * area / cost.area * rows
            if shared.stage is Stage.ENCODE:
                self._encoded_s = (self._encoded_s or 0.0) + seconds
            else:
                self._decoded, self._encoded_s, self._step_s = False, None, seconds
