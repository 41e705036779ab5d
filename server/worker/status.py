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
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.plan import ModelPlan
from server.telemetry import Metrics
from server.worker import failures
from server.worker.cost import Cost
from server.worker.protocol import Graphs

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
class Loads:
    """What is known of bringing a model to a device, and of drawing with it there; 0 and None: nothing yet."""

    disk_s: float = 0.0  # its last load took so long, from the disk
    host_s: float = 0.0  # and from host memory
    size: int = 0  # bytes of the device
    cost: Cost | None = None
    graphs: Graphs | None = None  # what became of its steps' CUDA graphs


@dataclass
class ModelStatus:
    """What the worker last said of one set of weights."""

    state: ModelState = ModelState.UNLOADED
    reason: str = ""
    shared: bool | None = None  # do its runs share steps? None until it has been checked
    unshared_reason: str = ""
    since_s: float = field(default_factory=time.monotonic)  # monotonic
    loads: Loads = field(default_factory=Loads)


class Deaths(Counter[str]):
    """How many workers have ended while they loaded a model, by its key. The workers of a fleet count together: each
    would otherwise be ended twice by the same model."""

    def __init__(self) -> None:
        super().__init__()
        self.watchers: list[Callable[[str, str], None]] = []  # told of a model that is given up, and why

    def add(self, key: str) -> None:
        self[key] += 1
        if self[key] >= _MAX_DEATHS:
            reason = f"{self[key]} workers have ended while they loaded it"
            log.error("model cannot be served", extra={"model": key, "reason": reason})
            for watcher in self.watchers:
                watcher(key, reason)


class ModelStatuses(dict[str, ModelStatus]):
    """The status of each model, by the key of its plan."""

    def __init__(
        self, plans: Iterable[ModelPlan], metrics: Metrics, device: str = "", deaths: Deaths | None = None
    ) -> None:
        """``device`` is its name in metrics; ``deaths`` are those of all workers, where there are several."""
        plans = tuple(plans)
        super().__init__({plan.key: ModelStatus() for plan in plans})
        self._metrics = metrics
        self._device = device
        self.room = 0  # bytes of the device for all weights, as of the last load; 0: not known
        self._plans = {plan.key: plan for plan in plans}
        self._marks = {plan.key: plan.mark for plan in plans}
        self._loading_of_old: set[str] = set()  # marks of plans that are loaded, and are no longer in models.yaml
        self._tried: set[str] = set()  # the models that this worker process has had ready, or found broken
        self._being_loaded = ""  # the one that the worker said last that it loads
        self._on_host: set[str] = set()  # keys of models that are in host memory, or are brought back from there
        self._deaths = Deaths() if deaths is None else deaths  # while they loaded a model; until it has been ready
        self._deaths.watchers.append(self._given_up)

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
            self._on_host.discard(key)
            self._forget_gauges(key)
        self._plans = new
        self._marks = {key: plan.mark for key, plan in new.items()}
        for key in new:
            if key not in self:
                self[key] = self._new(key)

    def _new(self, key: str) -> ModelStatus:
        """Of a plan that has come. It may have been here before, and be under way still."""
        mark = self._marks[key]
        if mark not in self._loading_of_old:
            return ModelStatus()
        self._loading_of_old.discard(mark)
        if self._being_loaded == mark:
            self._being_loaded = key
        return ModelStatus(ModelState.LOADING)

    def close(self) -> None:
        """The device is gone for good: nothing is told of it any more."""
        self._deaths.watchers.remove(self._given_up)
        for key in self:
            self._forget_gauges(key)

    def rename(self, device: str) -> None:
        """The device is called so from now on."""
        if device == self._device:
            return
        for key in self:
            self._forget_gauges(key)
        self._device = device
        for key, status in self.items():
            if status.state is not ModelState.UNLOADED or status.shared is not None:
                self._show(key, status)

    def _given_up(self, key: str, reason: str) -> None:
        """A model has ended so many workers that it is not to be loaded by any."""
        if key in self and self[key].state is not ModelState.READY:
            self.moved(key, ModelState.BROKEN, reason)

    def _forget_gauges(self, key: str) -> None:
        for gauge in (self._metrics.model_ready, self._metrics.model_shared):
            with contextlib.suppress(KeyError):
                gauge.remove(key, self._device)

    def _show(self, key: str, status: ModelStatus) -> None:
        self._metrics.model_ready.labels(key, self._device).set(status.state is ModelState.READY)
        if status.shared is not None:
            self._metrics.model_shared.labels(key, self._device).set(status.shared)

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

    def absent(self, plans: Iterable[ModelPlan]) -> list[ModelPlan]:
        """Those of these models that may be loaded unasked: neither there, nor on their way, nor broken."""
        return [plan for plan in plans if self[plan.key].state in (ModelState.UNLOADED, ModelState.OFFLOADED)]

    def told(
        self, key: str, state: ModelState, reason: str, mark: str = "", seconds: float = 0.0, size: int = 0
    ) -> None:
        """The worker says that a model's weights have come or gone, or are being loaded. One that has come took so many
        ``seconds``, and takes ``size`` bytes; 0 seconds: it was there before, and this is only said again."""
        if self._is_old(key, mark):
            self._told_of_old(mark, state)
            return
        if state is ModelState.LOADING:
            self._being_loaded = key
        elif key == self._being_loaded:
            self._being_loaded = ""
        if state is ModelState.READY:
            del self._deaths[key]
            loads = self[key].loads
            if seconds and key in self._on_host:
                loads.host_s = seconds
            elif seconds:
                loads.disk_s = seconds
            loads.size = size or loads.size
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
        self[key] = ModelStatus(state, reason, old.shared, old.unshared_reason, loads=old.loads)
        self._show(key, self[key])
        if state in (ModelState.READY, ModelState.BROKEN):
            self._tried.add(key)
        if state is ModelState.OFFLOADED:
            self._on_host.add(key)
        elif state is not ModelState.LOADING:
            self._on_host.discard(key)

    def load_s(self, key: str) -> float | None:
        """How long this model would take to be ready, as its last load from where it is did; None: not known."""
        status = self[key]
        if status.state is ModelState.READY:
            return 0.0
        known_s = status.loads.host_s if key in self._on_host else 0.0
        return known_s or status.loads.disk_s or None

    def checked(self, key: str, shared: bool, reason: str, mark: str = "") -> None:
        """The check at load has found whether the model's runs share steps."""
        if self._is_old(key, mark):
            return
        self[key].shared, self[key].unshared_reason = shared, reason
        self._show(key, self[key])

    def costs(self, key: str, cost: Cost, mark: str = "") -> None:
        """A step of this model takes so long on this device."""
        if not self._is_old(key, mark):
            self[key].loads.cost = cost

    def graphs(self, said: Graphs) -> None:
        """What became of a model's CUDA graphs by now."""
        if not self._is_old(said.key, said.mark):
            self[said.key].loads.graphs = said

    def worker_up(self) -> None:
        """A new worker process has come up. It has tried no model yet."""
        self._tried.clear()

    def worker_lost(self, wanted: Collection[str] = (), *, blame: bool = True) -> None:
        """The worker process has ended, and its loaded models with it. What is broken on disk stays broken.

        Its end is counted against the model that it loaded; if it had not said which, against all that are ``wanted``
        and were not ready. Without ``blame``, as where the way to it is cut, against none.
        """
        waiting = {key for key in wanted if self[key].state is not ModelState.READY}
        for key in {self._being_loaded} if self._being_loaded else waiting:
            if key not in self or not blame:
                continue  # its plan has left models.yaml: nobody will ask for it
            self._deaths.add(key)
        self._being_loaded = ""
        self._loading_of_old.clear()
        for key, status in self.items():
            if status.state is not ModelState.BROKEN:
                self.moved(key, ModelState.UNLOADED)
