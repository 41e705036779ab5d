"""A load's signs of life: of what it does, few, and none of one that stands still."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers.pipelines import pipeline_utils

from pipelines.errors import LoadRefused
from pipelines.models import components, loader
from pipelines.plan import ModelPlan
from server.catalog.load import load_catalog
from server.worker import protocol
from server.worker.child import signs
from server.worker.child.signs import LoadSigns
from tests.running import ROOT, eventually
from tests.unit.worker.clock import Clock, set_clock

PLAN = ModelPlan("m", "/m", "other")


class Link:
    def __init__(self) -> None:
        self.sent: list[protocol.ToFront] = []

    def send(self, message: protocol.ToFront) -> None:
        self.sent.append(message)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return set_clock(monkeypatch, signs)


def begun(link: Link, read: Any = lambda: 0) -> LoadSigns:
    return LoadSigns(cast(Any, link), PLAN, read)


def test_components_and_forwards_are_told_once_a_second_at_most(clock: Clock) -> None:
    link = Link()
    with begun(link) as load:
        for _ in range(1000):  # of a tiny model, in no time
            load.component()
            load.forward()
        clock.now += 1.0
        load.forward()
        load.forward()
        clock.now += 900.0
        load.component()
    assert link.sent == [
        protocol.LoadProgress("m", 0, 0, PLAN.mark),
        protocol.LoadProgress("m", 1000, 1001, PLAN.mark),
        protocol.LoadProgress("m", 1001, 1002, PLAN.mark),
    ]


def test_a_component_that_is_still_read_is_a_sign_of_life_and_one_that_hangs_is_none(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transformer of 24 GB from a slow disk is one component, and may take longer than load_timeout_s."""
    monkeypatch.setattr(signs, "_INTERVAL_S", 0.001)
    link, pages, looks = Link(), [0], [0]

    def read() -> int:
        looks[0] += 1
        clock.now += 1.0
        return pages[0]

    def look_again() -> None:
        before = looks[0]
        eventually(lambda: looks[0] > before + 3, within_s=10)

    with begun(link, read):
        look_again()
        assert len(link.sent) == 1, "nothing was read"
        pages[0] += 7
        look_again()
        assert len(link.sent) == 2
        look_again()
        assert len(link.sent) == 2
    ended = looks[0]
    assert "load-signs" not in {thread.name for thread in threading.enumerate()}
    assert looks[0] == ended


def test_what_was_read_grows() -> None:
    assert signs._pages_read() >= 0


@pytest.fixture
def mini() -> ModelPlan:
    return next(iter(load_catalog(ROOT / "models.yaml").plans.values()))


def test_loading_tells_of_each_component(mini: ModelPlan) -> None:
    told: list[int] = []
    model = loader.load(mini, torch.device("cpu"), component_done=lambda: told.append(1))
    named = [name for name in Path(mini.folder).iterdir() if name.is_dir()]
    assert len(told) == len(named) == len(model.components) - list(model.components.values()).count(None)


def test_a_release_of_diffusers_with_other_names_loads_as_well(
    mini: ModelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(components, "_MAKERS", ((pipeline_utils, "make_a_component"),))
    loader.load(mini, torch.device("cpu"), component_done=lambda: told.append(1))
    assert not told


def test_what_makes_components_is_put_back(mini: ModelPlan) -> None:
    before = pipeline_utils.load_sub_model

    def fail() -> None:
        assert pipeline_utils.load_sub_model is not before
        raise LoadRefused("on the way")

    with pytest.raises(LoadRefused):
        loader.load(mini, torch.device("cpu"), component_done=fail)
    assert pipeline_utils.load_sub_model is before
