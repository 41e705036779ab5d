"""What steps cost on this device, told to the front: it chooses the device for a drawing by it.

Knows what the check at load measured, how long steps take while the engine draws, and the front's messages; knows
neither runs nor tensors. A cost is told when a model has been checked, and again when it has moved by a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.engine.model import Model
from pipelines.engine.shared import Stage
from pipelines.plan import Drawing, ModelPlan
from server.worker import protocol
from server.worker.child.link import Link

_SMOOTHING = 0.05  # of the moving average: about the last forty steps count
_MIN_STEPS = 16  # between two that are told
_MOVED = 0.1
_MAX_RATIO = 2.0  # of one step to those before it: something held it up


@dataclass
class _Known:
    """Of one model: what is taken for its cost, and by how much steps take longer than that."""

    fixed_s: float
    row_s: float
    pixels: int  # of a row
    most_rows: int
    scale: float = 1.0
    told: float = 1.0  # the scale that the front knows; 0: it knows nothing
    steps: int = 0  # since then

    def expected_s(self, rows: int, pixels: int) -> float:
        return self.fixed_s + self.row_s * rows * pixels / self.pixels


class CostWatch:
    """The costs of all models of one device."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._known: dict[ModelPlan, _Known] = {}

    def checked(self, plan: ModelPlan, model: Model) -> None:
        """A model has been checked at load. What was not measured then is learned from its steps."""
        self._known.pop(plan, None)
        for shared in model.shared_modules.values():
            cost = shared.cost
            if shared.stage is Stage.DENOISE and cost is not None and model.shares:
                pixels = round(cost.area * shared.pixels) or plan.native_width * plan.native_height
                known = _Known(cost.fixed_s, cost.row_s, pixels, cost.most_rows(cost.area))
                self._known[plan] = known
                self._tell(plan, known)
                return

    def stepped(self, drawing: Drawing, rows: int, seconds: float) -> None:
        """A step has taken so long. On the engine's thread."""
        plan, pixels = drawing.plan, drawing.spec.draw_width * drawing.spec.draw_height
        known = self._known.get(plan)
        if known is None:
            known = self._known[plan] = _Known(0.0, seconds / rows, pixels, most_rows=rows, told=0.0)
        ratio = min(_MAX_RATIO * known.scale, seconds / max(known.expected_s(rows, pixels), 1e-9))
        known.scale += _SMOOTHING * (ratio - known.scale)
        known.steps += 1
        if known.steps >= _MIN_STEPS and abs(known.scale - known.told) >= _MOVED * known.told:
            self._tell(plan, known)

    def forget_all_but(self, plans: frozenset[ModelPlan]) -> None:
        """Only these models are served from now on."""
        for plan in list(self._known):  # the engine's thread may add one meanwhile
            if plan not in plans:
                self._known.pop(plan, None)

    def _tell(self, plan: ModelPlan, known: _Known) -> None:
        known.told, known.steps = known.scale, 0
        fixed_s, row_s = known.fixed_s * known.scale, known.row_s * known.scale
        self._link.send(protocol.Cost(plan.key, fixed_s, row_s, known.pixels, known.most_rows, plan.mark))
