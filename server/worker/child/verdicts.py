"""What is kept of the models that a worker has: what their checks found, and what was learnt of their steps since.

Knows verdicts, costs and records; knows neither tensors nor the engine. A model keeps none of this alive, nor is it
kept alive by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipelines.engine.learning import Curve, StepCosts
from pipelines.models.records import Record, Records
from pipelines.models.verdict import Checked, Verdict
from pipelines.plan import ModelPlan

_VERDICT = "verdict"  # its name among the records

Learnt = Mapping[ModelPlan, Mapping[str, Curve]]
"""What steps cost, by plan and component."""


@dataclass
class _Kept:
    record: Record
    verdict: Verdict
    costs: dict[str, StepCosts]  # by component, as the engine goes on learning them


class Verdicts:
    """The verdicts of one device's models."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._kept: dict[ModelPlan, _Kept] = {}

    def record_of(self, plan: ModelPlan) -> tuple[Record, Verdict | None]:
        """Where to keep what is found of a plan's files as they are now, and what was found of them."""
        record = self._records.of(plan)
        return record, record.get(_VERDICT, Verdict)

    def checked(self, plan: ModelPlan, record: Record, verdict: Verdict, known: Verdict | None, model: Checked) -> None:
        """Keep what was found of a model that was just loaded."""
        if verdict != known:
            record.keep(_VERDICT, verdict)
        costs = {shared.name: shared.costs for shared in model.shared_modules.values() if shared.is_denoiser}
        self._kept[plan] = _Kept(record, verdict, costs)

    def learnt(self) -> Learnt:
        """What steps cost by now. While no thread learns."""
        found: dict[ModelPlan, dict[str, Curve]] = {}
        for plan, kept in list(self._kept.items()):
            curves = {name: costs.curve() for name, costs in kept.costs.items() if costs.steps}
            known = {name: curve for name, curve in curves.items() if curve is not None}
            if known:
                found[plan] = known
        return found

    def keep(self, learnt: Learnt) -> None:
        """Keep what has moved by a tenth."""
        for plan, curves in learnt.items():
            kept = self._kept.get(plan)
            if kept is None:
                continue
            verdict = kept.verdict.with_costs({name: curve for name, curve in curves.items() if name in kept.costs})
            if verdict is not kept.verdict:
                kept.record.keep(_VERDICT, verdict)
                kept.verdict = verdict

    def forget_all_but(self, plans: Collection[ModelPlan]) -> None:
        """Only these models are served from now on."""
        self._records.forget_all_but(plans)
        for plan in self._kept.keys() - set(plans):
            del self._kept[plan]
