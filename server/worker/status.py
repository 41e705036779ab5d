"""What the front knows of each model of one worker.

Knows states and the gauges that show them; knows neither processes nor messages.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.plan import ModelPlan
from server.telemetry import Metrics
from server.worker import failures

_BROKEN_S = 30.0  # a model that failed to load is tried again after this


class ModelState(StrEnum):
    """Where a model's weights are; the values of pipelines.models.residency.Place, which needs torch."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    OFFLOADED = "offloaded"
    BROKEN = "broken"


@dataclass
class ModelStatus:
    """What the worker last said of one set of weights."""

    state: ModelState = ModelState.UNLOADED
    reason: str = ""
    shared: bool | None = None  # do its runs share steps? None until it has been checked
    unshared_reason: str = ""
    since_s: float = field(default_factory=time.monotonic)  # monotonic


class ModelStatuses(dict[str, ModelStatus]):
    """The status of each model, by the key of its plan."""

    def __init__(self, plans: Iterable[ModelPlan], metrics: Metrics) -> None:
        super().__init__({plan.key: ModelStatus() for plan in plans})
        self._metrics = metrics
        self._tried: set[str] = set()  # the models that this worker process has had ready, or found broken

    @property
    def loading(self) -> bool:
        """Is any model being loaded?"""
        return any(status.state is ModelState.LOADING for status in self.values())

    def tried(self, plans: Iterable[ModelPlan]) -> bool:
        """Has each of these models been ready, or found broken, since the worker came up?"""
        return all(plan.key in self._tried for plan in plans)

    def require(self, key: str, model: str, *, retry: bool = True) -> None:
        """Raise ModelUnavailable for weights that could not be loaded; ``model`` is the ID asked for.

        With ``retry``, only if that was lately: after a while they are to be tried again.
        """
        status = self[key]
        if status.state is ModelState.BROKEN and not (retry and time.monotonic() - status.since_s >= _BROKEN_S):
            raise failures.unavailable(model)

    def moved(self, key: str, state: ModelState, reason: str = "") -> None:
        """A model's weights have come or gone."""
        old = self[key]
        self[key] = ModelStatus(state, reason, old.shared, old.unshared_reason)
        self._metrics.model_ready.labels(key).set(state is ModelState.READY)
        if state in (ModelState.READY, ModelState.BROKEN):
            self._tried.add(key)

    def checked(self, key: str, shared: bool, reason: str) -> None:
        """The check at load has found whether the model's runs share steps."""
        self[key].shared, self[key].unshared_reason = shared, reason
        self._metrics.model_shared.labels(key).set(shared)

    def worker_up(self) -> None:
        """A new worker process has come up. It has tried no model yet."""
        self._tried.clear()

    def worker_lost(self) -> None:
        """The worker process has ended, and its loaded models with it. What is broken on disk stays broken."""
        for key, status in self.items():
            if status.state is not ModelState.BROKEN:
                self.moved(key, ModelState.UNLOADED)
