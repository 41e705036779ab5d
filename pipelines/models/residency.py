"""Which models are on the device, in host memory, on disk; who may stay, who must go.

Knows plans, bytes and pins; knows neither runs nor HTTP. A model in use is pinned and never evicted; the rest go
least recently used first, when another needs the room: from a CUDA device to host memory, from there to disk.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch

from pipelines.engine.graph_pool import GraphPool
from pipelines.errors import DrawError, LoadRefused, OutOfMemory, is_device_lost, is_out_of_memory
from pipelines.models import garbage, memory
from pipelines.models.loader import LoadedModel
from pipelines.models.upscaler_alone import UpscalerAlone
from pipelines.plan import ModelPlan

log = logging.getLogger("darkroom.residency")


Resource = LoadedModel | UpscalerAlone  # what has weights that are kept, and moved


class Place(StrEnum):
    """Where a model's weights are."""

    DISK = "unloaded"
    LOADING = "loading"
    DEVICE = "ready"
    HOST = "offloaded"
    BROKEN = "broken"


class Watcher(Protocol):
    """Who is told that a model has moved. Must return at once."""

    def __call__(self, plan: ModelPlan, place: Place, reason: str, seconds: float) -> None: ...


@dataclass
class _Resident:
    model: Resource
    size: int  # bytes on the device
    host_size: int  # bytes of host memory, when it is there
    pins: int = 0
    place: Place = Place.DEVICE
    leaving: bool = False  # a load makes room by it: who wants it again waits behind that load
    used: float = field(default_factory=time.monotonic)


class Residency:
    """The models of one device, within ``budget`` bytes of weights. Safe to call from any thread.

    ``load`` brings a model onto the device and may take minutes; ``size_of`` tells its bytes beforehand. ``measure``
    tells the budget anew at each load, from the bytes of the models that are on the device; ``room`` how much a model's
    work takes beside its weights, if that is known; ``advice`` what would make one fit into so many bytes. ``graphs``
    are the device's: they go where their memory is wanted for weights.
    """

    def __init__(
        self,
        load: Callable[[ModelPlan], Resource],
        size_of: Callable[[ModelPlan], int],
        watcher: Watcher,
        *,
        device: torch.device,
        budget: int,
        host_budget: int = 0,
        measure: Callable[[int], int] | None = None,
        room: Callable[[ModelPlan], int | None] = lambda plan: None,
        advice: Callable[[ModelPlan, int], str] = lambda plan, limit: "",
        graphs: GraphPool | None = None,
    ) -> None:
        self._load = load
        self._size_of = size_of
        self._watcher = watcher
        self._device = device
        self._budget = budget
        self._measure = measure
        self._room = room
        self._advice = advice
        self._graphs = graphs
        self._host_budget = host_budget if device.type == "cuda" else 0
        self._residents: dict[ModelPlan, _Resident] = {}
        self._served: frozenset[ModelPlan] | None = None  # None: whatever is asked for
        self._asked_away: dict[ModelPlan, Place] = {}  # once they are in use by nobody
        self._changed = threading.Condition()
        self._loading = threading.Lock()  # one load at a time: they share the disk, the bus and the budget

    def pin_if_ready(self, plan: ModelPlan) -> Resource | None:
        """The model, pinned, if it is on the device now and may stay; None without waiting if it is not."""
        with self._changed:
            resident = self._residents.get(plan)
            if resident is None or resident.place is not Place.DEVICE or resident.leaving:
                return None
            resident.pins += 1
            resident.used = time.monotonic()
            return resident.model

    def pin(self, plan: ModelPlan) -> Resource:
        """The model, pinned; brought to the device first if need be, once however many ask.

        Raises LoadRefused, and OutOfMemory for a model that is larger than the budget.
        """
        with self._loading:
            model = self.pin_if_ready(plan)
            if model is not None:
                return model
            started = time.monotonic()
            self._watcher(plan, Place.LOADING, "", 0.0)
            try:
                self._bring(plan)
            except Exception as error:  # whatever it was: nobody may wait for this model for ever
                if is_device_lost(error):
                    raise
                if is_out_of_memory(error):
                    self._watcher(plan, Place.BROKEN, "the device has no room for it", time.monotonic() - started)
                    raise OutOfMemory("the device has no room for the model") from None
                reason = str(error) if isinstance(error, DrawError) else f"{type(error).__name__}: {error}"
                self._watcher(plan, Place.BROKEN, reason, time.monotonic() - started)
                raise LoadRefused(reason) from error
            self._watcher(plan, Place.DEVICE, "", time.monotonic() - started)
            model = self.pin_if_ready(plan)
        assert model is not None
        return model

    def pin_again(self, plan: ModelPlan) -> None:
        """Pin once more what the caller has pinned."""
        with self._changed:
            self._residents[plan].pins += 1

    def unpin(self, plan: ModelPlan) -> None:
        with self._changed:
            self._residents[plan].pins -= 1
            self._changed.notify_all()

    def serve(self, plans: Iterable[ModelPlan]) -> None:
        """Only these stay from now on; the others leave with the next ``sweep`` that finds them in use by nobody."""
        with self._changed:
            self._served = frozenset(plans)

    def ask_away(self, plan: ModelPlan, place: Place) -> None:
        """Have a model leave for host memory or for the disk with the next ``sweep`` that finds it in use by nobody.

        Whoever asks for it before that keeps it no longer than the last who uses it.
        """
        with self._changed:
            if plan in self._residents:
                self._asked_away[plan] = place

    @property
    def has_leavers(self) -> bool:
        """Is there a model for ``sweep`` to send away?"""
        with self._changed:
            return self._next_leaver() is not None

    def sweep(self) -> None:
        """Send away what is no longer served or was asked away, as far as nobody uses it."""
        with self._loading:
            while True:
                with self._changed:
                    found = self._next_leaver()
                    if found is None:
                        return
                    plan, place = found
                    self._asked_away.pop(plan, None)
                    self._residents[plan].leaving = True  # who comes now waits behind this, and brings it back
                if place is Place.HOST:
                    self._evict(plan, plan)
                else:
                    self._left(plan, Place.DISK)

    def _next_leaver(self) -> tuple[ModelPlan, Place] | None:
        for plan, resident in self._residents.items():
            if resident.pins:
                continue
            if self._served is not None and plan not in self._served:
                return plan, Place.DISK
            place = self._asked_away.get(plan)
            if place is Place.DISK or (place is Place.HOST and resident.place is Place.DEVICE):
                return plan, place
        return None

    def _bring(self, plan: ModelPlan) -> None:
        resident = self._residents.get(plan)
        size = resident.size if resident is not None else self._size_of(plan)
        self._make_room(size, plan)
        if resident is not None:
            self._bring_back(plan, resident)
            return
        model = self._load(plan)
        with self._changed:
            self._residents[plan] = _Resident(model, model.weight_bytes(), model.host_bytes())

    def _bring_back(self, plan: ModelPlan, resident: _Resident) -> None:
        try:
            resident.model.move(self._device)
        except Exception:  # half of it may have moved: the next who wants it reads it from disk
            with self._changed:
                del self._residents[plan]
            raise
        with self._changed:
            resident.place = Place.DEVICE
        while (oldest := self._too_many_on_host(self._host_budget)) is not None:  # it did not count, and stays there
            self._drop_from_host(oldest)
        self._give_back()

    def sizes(self, plan: ModelPlan) -> tuple[int, int]:
        """Bytes of the device that a model takes, and of the device for all weights beside it, as of the last load."""
        with self._changed:
            there = {
                each: resident.size for each, resident in self._residents.items() if resident.place is Place.DEVICE
            }
        room = memory.for_weights(self._budget, [self._room(each) for each in {*there, plan}])
        return there.get(plan, 0), room

    def limit(self, coming: ModelPlan) -> int:
        """Bytes for weights while this model is on the device, others' included, measured now."""
        there = {plan: r.size for plan, r in self._residents.items() if r.place is Place.DEVICE}
        if self._measure is not None:  # other programs come and go, and one that ended may have held its memory a while
            self._budget = self._measure(sum(there.values()))
        return memory.for_weights(self._budget, [self._room(plan) for plan in {*there, coming}])

    def _make_room(self, size: int, coming: ModelPlan) -> None:
        """Evict until ``size`` more bytes fit. Raises LoadRefused if they never will."""
        limit = self.limit(coming)
        kept = sum(r.size for p, r in self._residents.items() if self._stays(p))
        if size + kept > limit:
            kept_says = f", {kept >> 20} MiB of them for models that it keeps" if kept else ""
            word = self._advice(coming, limit - kept)
            raise LoadRefused(
                f"its weights take {size >> 20} MiB; the device has {limit >> 20} MiB for weights{kept_says}"
                + (f". It would fit with {word}" if word else "")
            )
        while (leaver := self._wait_for_leaver(limit - size)) is not None:
            self._evict(leaver, coming)
        if self._graphs is not None:
            self._graphs.make_room(size)

    def _stays(self, plan: ModelPlan) -> bool:
        """Does it make room for no other? One that is kept does not, as long as it is served."""
        return plan.keep and (self._served is None or plan in self._served)

    def _wait_for_leaver(self, limit: int) -> ModelPlan | None:
        """The model to evict next, in use by nobody and marked as leaving; None if all fit into ``limit`` bytes."""
        with self._changed:
            while True:
                for resident in self._residents.values():
                    resident.leaving = False
                there = {p: r for p, r in self._residents.items() if r.place is Place.DEVICE}
                if sum(resident.size for resident in there.values()) <= limit:
                    return None
                plan = min(
                    (p for p in there if not self._stays(p)), key=lambda p: _last_to_leave(p, there[p]), default=None
                )
                if plan is None:  # one that was to make room is served again meanwhile, and kept
                    raise LoadRefused("models that the device keeps have left no room for it")
                resident = there[plan]
                resident.leaving = True  # also while it is in use: steady work would hold it, and this load, for ever
                if resident.pins == 0:
                    return plan
                self._changed.wait()

    def _evict(self, plan: ModelPlan, coming: ModelPlan) -> None:
        """Send away a model that is marked as leaving. Not under the lock: moving and collecting take seconds, and
        the engine and all other models go on meanwhile."""
        on_host = not plan.offload and self._has_room_on_host(plan, coming)
        self._left(plan, Place.HOST if on_host and self._move_to_host(plan) else Place.DISK)

    def _has_room_on_host(self, plan: ModelPlan, coming: ModelPlan) -> bool:
        resident = self._residents[plan]
        return resident.model.has_host_copy or self._make_room_on_host(resident.host_size, coming)

    def _make_room_on_host(self, size: int, coming: ModelPlan) -> bool:
        """Drop models from host memory, least recently used first, until ``size`` more bytes fit; False if they never
        will. ``coming`` is about to be on the device, and does not count."""
        if size > self._host_budget:
            return False
        while (oldest := self._too_many_on_host(self._host_budget - size, coming)) is not None:
            self._drop_from_host(oldest)
        return True

    def _drop_from_host(self, plan: ModelPlan) -> None:
        if self._residents[plan].place is Place.DEVICE:
            self._residents[plan].model.forget_host_copy()
            self._give_back()
        else:
            self._left(plan, Place.DISK)

    def _too_many_on_host(self, limit: int, coming: ModelPlan | None = None) -> ModelPlan | None:
        """The first to leave host memory, if all there take more than ``limit`` bytes: copies of models that are on the
        device first, then the least recently used."""
        hosted = {
            plan: resident
            for plan, resident in self._residents.items()
            if plan != coming and (resident.place is Place.HOST or resident.model.has_host_copy)
        }
        if sum(resident.host_size for resident in hosted.values()) <= limit:
            return None
        return min(hosted, key=lambda plan: (hosted[plan].place is not Place.DEVICE, hosted[plan].used))

    def _move_to_host(self, plan: ModelPlan) -> bool:
        """False if there is no room after all; the model is of no more use then, for half of it may have moved."""
        try:
            self._residents[plan].model.move(torch.device("cpu"))
        except Exception as error:
            if is_device_lost(error):
                raise
            log.warning("no host memory for a model", extra={"model": plan.key, "error": type(error).__name__})
            return False
        return True

    def _give_back(self) -> None:
        """Give back the memory that torch keeps, not while a graph is captured: that is an error of torch's."""
        with contextlib.nullcontext() if self._graphs is None else self._graphs.lock:
            memory.give_back(self._device)

    def _left(self, plan: ModelPlan, place: Place) -> None:
        """Note that a model is now on the host, or nowhere but on disk, and give back the memory where it was."""
        with self._changed:
            resident = self._residents[plan]
            resident.place, resident.leaving = place, False
            if place is Place.DISK:
                del self._residents[plan]
        resident.model.forget_tables()
        del resident
        if place is Place.DISK:
            garbage.collect()  # pipelines and their views are part of reference cycles: the weights would stay for now
        self._give_back()
        log.info("model evicted", extra={"model": plan.key, "to": str(place)})
        self._watcher(plan, place, "", 0.0)


def _last_to_leave(plan: ModelPlan, resident: _Resident) -> tuple[bool, bool, float]:
    """The greater, the later: those in use, then those that are offloaded and so give little room."""
    return resident.pins > 0, plan.offload, resident.used
