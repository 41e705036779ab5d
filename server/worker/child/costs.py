"""What steps cost on this device, told to the front: it chooses the device for a drawing by it.

Knows what is learnt of each model's steps, and the front's messages; knows neither runs nor tensors. A cost is told
when a model has been checked, soon after its first steps, and again when it has moved by a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.engine.learning import StepCosts
from pipelines.engine.model import Model
from pipelines.engine.shared import Stage
from pipelines.plan import Drawing, ModelPlan
from server.worker import protocol
from server.worker.child.link import Link

_MIN_STEPS = 16  # between two that are told, but for the first after a load: the check's was made beside others
_LOOK_STEPS = 4  # between two looks
_LOOKS = 2  # one after the other that have to find it moved: a single step may have been held up
_RENEW_STEPS = 1024  # then it is told anew, with the number of steps that it comes from
_MOVED = 0.1


@dataclass
class _Known:
    """Of one model: the picture that a latent element stands for, and what the front knows."""

    element_pixels: float  # 0: not noted
    shares: bool = True
    told: protocol.Cost | None = None
    steps: int = 0  # since then
    moved: int = 0  # the last so many looks found it moved


class CostWatch:
    """The costs of all models of one device."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._known: dict[ModelPlan, _Known] = {}

    def checked(self, plan: ModelPlan, model: Model) -> None:
        """A model has been checked at load, or is back from host memory."""
        self._known.pop(plan, None)
        for shared in model.shared_modules.values():
            if shared.stage is Stage.DENOISE:
                known = self._known[plan] = _Known(shared.pixels, model.shares)
                if model.shares:
                    self._tell(plan, known, shared.costs)
                return

    def stepped(self, drawing: Drawing, costs: StepCosts) -> None:
        """A step has been taken. On the engine's thread."""
        plan = drawing.plan
        known = self._known.get(plan)
        if known is None:
            known = self._known[plan] = _Known(0.0)
        known.steps += 1
        if known.steps % _LOOK_STEPS == 0:
            self._tell(plan, known, costs)

    def forget_all_but(self, plans: frozenset[ModelPlan]) -> None:
        """Only these models are served from now on."""
        for plan in list(self._known):  # the engine's thread may add one meanwhile
            if plan not in plans:
                self._known.pop(plan, None)

    def _tell(self, plan: ModelPlan, known: _Known, costs: StepCosts) -> None:
        """Tell the front, unless it knows it already."""
        cost = costs.cost()
        if cost is None:
            return
        pixels = round(cost.area * known.element_pixels) or plan.native_width * plan.native_height
        most_rows = costs.most_rows(cost.area) if known.shares else 1
        new = protocol.Cost(
            plan.key, cost.fixed_s, cost.row_s, pixels, most_rows, plan.mark, costs.steps, guess=costs.is_guess
        )
        if known.told is None:
            due = known.steps == 0 or known.steps >= _MIN_STEPS
        elif known.told.steps == 0:
            due = known.steps > 0
        elif known.told.steps < _MIN_STEPS <= costs.steps:
            due = True  # from then on the front takes it for the device's own
        else:
            known.moved = known.moved + 1 if _has_moved(new, known.told) else 0
            due = known.steps >= _RENEW_STEPS or (known.steps >= _MIN_STEPS and known.moved >= _LOOKS)
        if due:
            known.told, known.steps, known.moved = new, 0, 0
            self._link.send(new)


def _has_moved(new: protocol.Cost, old: protocol.Cost) -> bool:
    if new.pixels != old.pixels or new.guess != old.guess:
        return True
    if abs(new.most_rows - old.most_rows) > max(1, _MOVED * old.most_rows):
        return True
    pairs = [(new.fixed_s + new.row_s * rows, old.fixed_s + old.row_s * rows) for rows in (1, 8)]
    return any(abs(one - other) > _MOVED * other for one, other in pairs)
