"""How much may be on the device: measured at each load, less what work takes, and said where it is not enough."""

from __future__ import annotations

import pytest
import torch

from pipelines.errors import LoadRefused
from pipelines.models.residency import Place, Residency
from pipelines.plan import ModelPlan
from tests.unit.pipelines.models.residents import GIB, House


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


def test_the_budget_is_measured_at_each_load() -> None:
    """A game that ran at start, or a worker that had just been killed, left every model refused for good."""
    house = House()
    asked: list[int] = []
    free = GIB // 2

    def measure(resident: int) -> int:
        asked.append(resident)
        return free + resident

    house.residency._measure = measure
    with pytest.raises(LoadRefused, match="384 MiB for weights"):
        house.use("a")
    free = 4 * GIB
    house.visit("a", "b")
    assert asked == [0, 0, GIB]
    free = 0  # another program has come: there is room for one of the two
    house.visit("c")
    assert house.places() == {"a": Place.DISK, "b": Place.DISK, "c": Place.DEVICE}


def test_work_takes_the_room_that_is_known_of_it() -> None:
    """A quarter of the device was kept for it: 19.6 GiB of 80, where three were enough."""
    house = House()
    rooms = {"a": GIB // 4, "b": GIB // 2}
    house.residency._room = lambda plan: rooms.get(plan.key)
    a = ModelPlan("a", "/models/a", "other")
    assert house.residency.limit(a) == 3 * GIB - GIB // 4
    house.visit("b")
    assert house.residency.limit(a) == 3 * GIB - GIB // 2, "the most that any of those there takes"
    rooms["b"] = 2 * GIB
    assert house.residency.limit(a) == 3 * GIB - 3 * GIB // 4, "a quarter at most"
    assert house.residency.limit(ModelPlan("c", "/models/c", "other")) == 3 * GIB - 3 * GIB // 4


def test_a_refusal_ends_with_what_would_help() -> None:
    house = House(big=4 * GIB)
    asked: list[int] = []

    def advise(plan: ModelPlan, limit: int) -> str:
        asked.append(limit)
        return "encoders: host"

    house.residency._advice = advise
    with pytest.raises(LoadRefused, match=r"2304 MiB for weights\. It would fit with encoders: host$"):
        house.use("big")
    assert asked == [9 * GIB // 4]
