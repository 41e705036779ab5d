"""What the front knows of each model of one worker.

Knows states and the gauges that show them; knows neither processes nor messages.

A model may end the worker that loads it. One under whose load two workers have ended is broken, and is not tried again
for a while: each try ends the drawings of all other models too.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.plan import ModelPlan
from server.telemetry import Metrics
from server.worker import failures

log = logging.getLogger("darkroom.worker")

_BROKEN_S = 30.0  # a model that failed to load is tried again after this
_FATAL_S = 600.0  # and one whose load ended two workers, after this
_MAX_DEATHS = 2


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
        plans = tuple(plans)
        super().__init__({plan.key: ModelStatus() for plan in plans})
        self._metrics = metrics
        self._plans = {plan.key: plan for plan in plans}
        self._marks = {plan.key: plan.mark for plan in plans}
        self._loading_of_old: set[str] = set()  # marks of plans that are loaded, and are no longer in models.yaml
        self._tried: set[str] = set()  # the models that this worker process has had ready, or found broken
        self._being_loaded = ""  # the one that the worker said last that it loads
        self._deaths: Counter[str] = Counter()  # of workers, while they loaded a model; until it has been ready

    @property
    def loading(self) -> bool:
        """Is any model being loaded?"""
        return bool(self._loading_of_old) or any(status.state is ModelState.LOADING for status in self.values())

    def serve(self, plans: Iterable[ModelPlan]) -> None:
        """models.yaml has these plans now. What is known of a plan that has changed is forgotten."""
        new = {plan.key: plan for plan in plans}
        for key, plan in list(self._plans.items()):
            if new.get(key) == plan:
                continue
            if self[key].state is ModelState.LOADING:
                self._loading_of_old.add(self._marks[key])
            if self._being_loaded == key:
                self._being_loaded = self._marks[key]
            del self[key], self._deaths[key]
            self._tried.discard(key)
            for gauge in (self._metrics.model_ready, self._metrics.model_shared):
                with contextlib.suppress(KeyError):
                    gauge.remove(key)
        self._plans = new
        self._marks = {key: plan.mark for key, plan in new.items()}
        for key in new:
            if key not in self:
                self[key] = ModelStatus()

    def serves(self, plan: ModelPlan) -> bool:
        """Is this plan in models.yaml, as it is now?"""
        return self._plans.get(plan.key) == plan

    def is_ready(self, plan: ModelPlan) -> bool:
        """Is this model on the device, as far as is known? Of a plan that has left models.yaml nothing is."""
        return not self.serves(plan) or self[plan.key].state is ModelState.READY

    def may_draw(self, plan: ModelPlan) -> bool:
        """Can what is to be drawn by this plan be under way, and not wait for its load?"""
        return self.is_ready(plan) and plan.mark not in self._loading_of_old

    def tried(self, plans: Iterable[ModelPlan]) -> bool:
        """Has each of these models been ready, or found broken, since the worker came up?"""
        return all(plan.key in self._tried for plan in plans)

    def require(self, key: str, model: str, *, retry: bool = True) -> None:
        """Raise ModelUnavailable for weights that could not be loaded; ``model`` is the ID asked for.

        With ``retry``, only if that was lately: after a while they are to be tried again.
        """
        status = self.get(key)
        if status is None:
            return  # it has left models.yaml since it was looked up
        rest_s = _FATAL_S if self._deaths[key] >= _MAX_DEATHS else _BROKEN_S
        if status.state is ModelState.BROKEN and not (retry and time.monotonic() - status.since_s >= rest_s):
            raise failures.unavailable(model)

    def may_preload(self, key: str) -> bool:
        """May a worker that has come up load this model unasked? Not what has just ended two of them."""
        if self._deaths[key] < _MAX_DEATHS or time.monotonic() - self[key].since_s >= _FATAL_S:
            return True
        self._tried.add(key)
        return False

    def told(self, key: str, state: ModelState, reason: str, mark: str = "") -> None:
        """The worker says that a model's weights have come or gone, or are being loaded."""
        if self._is_old(key, mark):
            self._told_of_old(mark, state)
            return
        if state is ModelState.LOADING:
            self._being_loaded = key
        elif key == self._being_loaded:
            self._being_loaded = ""
        if state is ModelState.READY:
            del self._deaths[key]
        self.moved(key, state, reason)

    def _is_old(self, key: str, mark: str) -> bool:
        return key not in self or mark not in ("", self._marks[key])

    def _told_of_old(self, mark: str, state: ModelState) -> None:
        """Of a plan that has left models.yaml only this matters: whether the worker is busy with loading it."""
        if state is ModelState.LOADING:
            self._loading_of_old.add(mark)
            self._being_loaded = mark
        else:
            self._loading_of_old.discard(mark)
            if self._being_loaded == mark:
                self._being_loaded = ""

    def moved(self, key: str, state: ModelState, reason: str = "") -> None:
        """A model's weights have come or gone."""
        old = self[key]
        self[key] = ModelStatus(state, reason, old.shared, old.unshared_reason)
        self._metrics.model_ready.labels(key).set(state is ModelState.READY)
        if state in (ModelState.READY, ModelState.BROKEN):
            self._tried.add(key)

    def checked(self, key: str, shared: bool, reason: str, mark: str = "") -> None:
        """The check at load has found whether the model's runs share steps."""
        if self._is_old(key, mark):
            return
        self[key].shared, self[key].unshared_reason = shared, reason
        self._metrics.model_shared.labels(key).set(shared)

    def worker_up(self) -> None:
        """A new worker process has come up. It has tried no model yet."""
        self._tried.clear()

    def worker_lost(self, wanted: Collection[str] = ()) -> None:
        """The worker process has ended, and its loaded models with it. What is broken on disk stays broken.

        Its end is counted against the model that it loaded; if it had not said which, against all that are ``wanted``
        and were not ready.
        """
        waiting = {key for key in wanted if self[key].state is not ModelState.READY}
        for key in {self._being_loaded} if self._being_loaded else waiting:
            if key not in self:
                continue  # its plan has left models.yaml: nobody will ask for it
            self._deaths[key] += 1
            if self._deaths[key] >= _MAX_DEATHS:
                reason = f"{self._deaths[key]} workers have ended while they loaded it"
                log.error("model cannot be served", extra={"model": key, "reason": reason})
                self.moved(key, ModelState.BROKEN, reason)
        self._being_loaded = ""
        self._loading_of_old.clear()
        for key, status in self.items():
            if status.state is not ModelState.BROKEN:
                self.moved(key, ModelState.UNLOADED)
