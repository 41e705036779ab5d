"""What became of each model's CUDA graphs on this device, told to the front, which shows it to the operator.

Knows tallies and the front's messages; knows neither graphs nor tensors. It is told when a model has been checked, and
as runs end, where something has changed since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from pipelines.engine.graphs import Tally
from pipelines.engine.model import Model
from pipelines.plan import ModelPlan
from server.worker import protocol
from server.worker.child.link import Link


class GraphWatch:
    """The graphs of all models of one device, in a pool of ``held_bytes``."""

    def __init__(self, link: Link, held_bytes: Callable[[], int]) -> None:
        self._link = link
        self._held_bytes = held_bytes
        self._tallies: dict[ModelPlan, list[Tally]] = {}  # of each model's modules; they keep no model alive
        self._told: dict[ModelPlan, protocol.Graphs] = {}

    def checked(self, plan: ModelPlan, model: Model) -> None:
        """A model has been loaded and checked. One whose steps are never graphs is not told of."""
        self._told.pop(plan, None)
        self._tallies[plan] = [shared.graphs.tally for shared in model.shared_modules.values() if shared.graphs]
        self.tell(plan)

    def tell(self, plan: ModelPlan) -> None:
        """Tell the front, unless it knows it already. While no thread draws with the model, or on the one that does."""
        tallies = self._tallies.get(plan)
        if not tallies:
            return
        dropped: Counter[str] = sum((tally.dropped for tally in tallies), Counter())
        refused: Counter[str] = sum((tally.refused for tally in tallies), Counter())
        new = protocol.Graphs(
            plan.key,
            held=sum(tally.held for tally in tallies),
            captured=sum(tally.captured for tally in tallies),
            replayed=sum(tally.replayed for tally in tallies),
            dropped=dict(dropped),
            refused=dict(refused),
            pool_bytes=self._held_bytes(),
            reason=next((tally.reason for tally in tallies if tally.reason), ""),
            mark=plan.mark,
        )
        if self._told.get(plan) != new:
            self._told[plan] = new
            self._link.send(new)

    def forget_all_but(self, plans: Collection[ModelPlan]) -> None:
        """Only these models are served from now on."""
        for plan in list(self._tallies):
            if plan not in plans:
                self._tallies.pop(plan, None)
                self._told.pop(plan, None)
