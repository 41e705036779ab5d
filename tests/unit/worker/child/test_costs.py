"""What a step costs is told when the model was checked, and whenever it has moved by a tenth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.engine.cost import StepCost
from pipelines.engine.shared import Stage
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import ImageSpec
from server.worker import protocol
from server.worker.child.costs import CostWatch
from server.worker.child.link import Link

PLAN = ModelPlan("m", "/m", "other", native_width=64, native_height=64)
DRAWING = Drawing("job_1", PLAN, ImageSpec("m", "p", 64, 64, 64, 64, 4, 1.0), (5,))


class Front:
    def __init__(self) -> None:
        self.sent: list[protocol.Cost] = []
        self.watch = CostWatch(cast(Link, self))

    def send(self, message: protocol.Cost) -> None:
        self.sent.append(message)

    def steps(self, count: int, seconds: float, rows: int = 2) -> None:
        for _ in range(count):
            self.watch.stepped(DRAWING, rows, seconds)


def model(cost: StepCost | None, *, shares: bool = True, pixels: float = 64.0) -> Any:
    """One whose latent elements stand for so many pixels."""
    shared = SimpleNamespace(stage=Stage.DENOISE, cost=cost, pixels=pixels)
    decoder = SimpleNamespace(stage=Stage.DECODE, cost=None, pixels=64.0)
    return SimpleNamespace(shares=shares, shared_modules={1: decoder, 2: shared})


@pytest.fixture
def front() -> Front:
    front = Front()
    front.watch.checked(PLAN, model(StepCost(0.01, 0.02, area=64, peak_rows=12)))
    return front


def test_a_cost_is_told_as_it_was_measured(front: Front) -> None:
    assert front.sent == [protocol.Cost("m", 0.01, 0.02, 64 * 64, 9, PLAN.mark)]


def test_a_cost_of_before_the_pixels_were_noted_is_the_native_sizes() -> None:
    front = Front()
    front.watch.checked(PLAN, model(StepCost(0.01, 0.02, area=64), pixels=0.0))
    assert front.sent[0].pixels == 64 * 64


def test_steps_that_take_what_was_measured_are_no_news(front: Front) -> None:
    front.steps(200, 0.05)
    front.steps(200, 0.052)
    assert len(front.sent) == 1


def test_steps_that_take_longer_are_told_in_tenths(front: Front) -> None:
    front.steps(400, 0.1)
    assert 3 <= len(front.sent) <= 9
    told = [message.fixed_s + 2 * message.row_s for message in front.sent]
    assert told == sorted(told)
    assert told[-1] == pytest.approx(0.1, rel=0.11)


def test_one_step_that_something_held_up_is_no_news(front: Front) -> None:
    front.steps(30, 0.05)
    front.steps(1, 0.2)
    front.steps(30, 0.05)
    assert len(front.sent) == 1


@pytest.mark.parametrize(("cost", "shares"), [(None, True), (StepCost(0.01, 0.02, area=64), False)])
def test_what_was_not_measured_is_learned(cost: StepCost | None, shares: bool) -> None:
    front = Front()
    front.watch.checked(PLAN, model(cost, shares=shares))
    front.steps(15, 0.4)
    assert not front.sent, "few steps say little"
    front.steps(1, 0.4)
    (told,) = front.sent
    assert (told.fixed_s, told.pixels) == (0.0, 64 * 64)
    assert told.row_s == pytest.approx(0.2)


def test_a_model_that_left_models_yaml_is_forgotten(front: Front) -> None:
    front.watch.forget_all_but(frozenset())
    assert not front.watch._known
