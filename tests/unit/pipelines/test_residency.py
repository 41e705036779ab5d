"""Which models may be on the device: one load however many ask, no eviction while in use, the budget kept."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import pytest
import torch

from pipelines.errors import LoadRefused
from pipelines.plan import ModelPlan
from pipelines.residency import Place, Residency

GIB = 1 << 30


class Weights:
    """As much of a loaded model as residency asks of it."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan

    def weight_bytes(self) -> int:
        return GIB


class House:
    """A residency with room for two models of 1 GiB, and a record of what it did."""

    def __init__(self, *, broken: str = "") -> None:
        self.loads: list[str] = []
        self.moves: list[tuple[str, Place]] = []
        self.broken = broken
        self.loading_s = 0.0
        self.residency = Residency(
            self._load, lambda plan: GIB, self._moved, device=torch.device("cpu"), budget=3 * GIB
        )

    def _load(self, plan: ModelPlan) -> Any:
        self.loads.append(plan.key)
        time.sleep(self.loading_s)
        if plan.key == self.broken:
            raise LoadRefused("torn")
        return Weights(plan)

    def _moved(self, key: str, place: Place, reason: str, seconds: float) -> None:
        self.moves.append((key, place))

    def use(self, key: str, *, keep: bool = False) -> ModelPlan:
        plan = ModelPlan(key, f"/models/{key}", "other", keep=keep)
        self.residency.pin(plan)
        return plan


def test_many_askers_make_one_load() -> None:
    house = House()
    house.loading_s = 0.05
    threads = [threading.Thread(target=house.use, args=("a",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert house.loads == ["a"]


def test_the_least_recently_used_goes_and_comes_back() -> None:
    house = House()
    a, b = house.use("a"), house.use("b")
    house.residency.unpin(a)
    house.residency.unpin(b)
    house.residency.unpin(house.use("a"))  # now b is the older one
    house.use("c")
    assert ("b", Place.DISK) in house.moves
    assert house.residency.pin_if_ready(a) is not None
    assert house.residency.pin_if_ready(b) is None


def test_a_model_in_use_is_not_evicted_but_waited_for() -> None:
    house = House()
    a, _b = house.use("a"), house.use("b")
    came = threading.Event()
    thread = threading.Thread(target=lambda: (house.use("c"), came.set()))
    thread.start()
    assert not came.wait(0.1)
    assert house.residency.pin_if_ready(a) is not None  # pinned twice now
    house.residency.unpin(a)
    assert not came.wait(0.1)
    house.residency.unpin(a)
    assert came.wait(5)
    thread.join()
    assert ("a", Place.DISK) in house.moves


def test_a_kept_model_stays() -> None:
    house = House()
    kept, b = house.use("kept", keep=True), house.use("b")
    house.residency.unpin(kept)
    house.residency.unpin(b)
    house.use("c")
    assert house.residency.pin_if_ready(kept) is not None
    assert ("b", Place.DISK) in house.moves


def test_a_broken_model_is_told_and_can_be_tried_again() -> None:
    house = House(broken="a")
    with pytest.raises(LoadRefused, match="torn"):
        house.use("a")
    assert house.moves[-1] == ("a", Place.BROKEN)
    house.broken = ""
    house.use("a")
    assert house.moves[-1] == ("a", Place.DEVICE)


def test_a_model_larger_than_the_device_is_refused_by_its_headers() -> None:
    refused = Residency(
        lambda plan: pytest.fail("must not be loaded"),
        lambda plan: 100 * GIB,
        lambda key, place, reason, seconds: None,
        device=torch.device("cpu"),
        budget=3 * GIB,
    )
    with pytest.raises(LoadRefused, match="MiB for weights"):
        refused.pin(ModelPlan("a", "/models/a", "other"))


def test_a_model_that_goes_to_disk_is_gone() -> None:
    """A pipeline and what drew on it refer to each other: without a collection their weights would stay."""
    house = House()
    plan = house.use("a")
    model: Any = house.residency.pin_if_ready(plan)
    model.itself = model
    weights = weakref.ref(model)
    del model
    for _ in range(2):
        house.residency.unpin(plan)
    house.use("b")
    gc.disable()
    try:
        house.use("c")
        assert weights() is None
    finally:
        gc.enable()
