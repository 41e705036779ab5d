"""What a step costs is told when the model was checked, after its first steps, and when it has moved by a tenth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.engine.learning import Curve, StepCosts
from pipelines.engine.shared import Stage
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import ImageSpec
from server.worker import protocol
from server.worker.child.costs import CostWatch
from server.worker.child.link import Link

PLAN = ModelPlan("m", "/m", "other", native_width=64, native_height=64)
DRAWING = Drawing("job_1", PLAN, ImageSpec("m", "p", 64, 64, 64, 64, 4, 1.0), (5,))
AREA = 64


def guess() -> StepCosts:
    return StepCosts(Curve(AREA, tuple((rows, 0.01 + 0.02 * rows, 0.05) for rows in (2, 4, 8, 16))))


class Front:
    def __init__(self, costs: StepCosts) -> None:
        self.sent: list[protocol.Cost] = []
        self.watch = CostWatch(cast(Link, self))
        self.costs = costs

    def send(self, message: protocol.Cost) -> None:
        self.sent.append(message)

    def load(self, *, shares: bool = True, pixels: float = 64.0) -> None:
        """A model whose latent elements stand for so many pixels."""
        shared = SimpleNamespace(stage=Stage.DENOISE, costs=self.costs, pixels=pixels)
        decoder = SimpleNamespace(stage=Stage.DECODE, costs=StepCosts(), pixels=64.0)
        model: Any = SimpleNamespace(shares=shares, shared_modules={1: decoder, 2: shared})
        self.watch.checked(PLAN, model)

    def steps(self, count: int, seconds: float, *sizes: int) -> None:
        """Steps of these sizes in turn; those of two rows take so long, and a row more 0.02 s of 0.05."""
        for number in range(count):
            rows = (sizes or (2, 4))[number % len(sizes or (2, 4))]
            self.costs.learn(rows, AREA, seconds * (0.01 + 0.02 * rows) / 0.05)
            self.watch.stepped(DRAWING, self.costs)


@pytest.fixture
def front() -> Front:
    front = Front(guess())
    front.load()
    return front


def test_a_cost_is_told_as_it_is_guessed(front: Front) -> None:
    (told,) = front.sent
    assert [told.fixed_s, told.row_s] == pytest.approx([0.01, 0.02])
    assert (told.pixels, told.most_rows, told.mark) == (64 * 64, 8, PLAN.mark)
    assert (told.steps, told.guess) == (0, True)


def test_a_cost_of_before_the_pixels_were_noted_is_the_native_sizes() -> None:
    front = Front(guess())
    front.load(pixels=0.0)
    assert front.sent[0].pixels == 64 * 64


def test_the_first_steps_put_a_guess_right(front: Front) -> None:
    """What the check takes beside others is up to three times as dear as the steps that follow."""
    front.steps(4, 0.05 / 3)
    assert len(front.sent) == 2
    told = front.sent[-1]
    assert told.fixed_s + 2 * told.row_s == pytest.approx(0.05 / 3, rel=0.01)
    front.steps(24, 0.05 / 3)
    assert not front.sent[-1].guess
    assert front.sent[-1].steps == 16, "from then on it is taken for its own"


def test_steps_that_take_what_was_learnt_are_no_news(front: Front) -> None:
    front.steps(100, 0.05)
    told = len(front.sent)
    front.steps(400, 0.05)
    front.steps(400, 0.052)
    assert len(front.sent) == told


def test_steps_that_take_longer_are_told_in_tenths(front: Front) -> None:
    front.steps(100, 0.05)
    told = len(front.sent)
    front.steps(400, 0.1)
    assert 1 <= len(front.sent) - told <= 9
    last = front.sent[-1]
    assert last.fixed_s + 2 * last.row_s == pytest.approx(0.1, rel=0.11)


def test_one_step_that_something_held_up_is_no_news(front: Front) -> None:
    front.steps(108, 0.05)
    told = len(front.sent)
    front.steps(1, 5.0)
    front.steps(30, 0.05)
    assert len(front.sent) == told


def test_a_cost_is_told_anew_with_what_it_was_learnt_from(front: Front) -> None:
    front.steps(3000, 0.05)
    assert front.sent[-1].steps >= 1024


@pytest.mark.parametrize("shares", [True, False])
def test_what_was_not_guessed_is_learned(shares: bool) -> None:
    front = Front(StepCosts())
    front.load(shares=shares)
    front.steps(15, 0.38, 2)
    assert not front.sent, "few steps say little"
    front.steps(1, 0.38, 2)
    (told,) = front.sent
    assert [told.fixed_s, told.row_s, told.pixels] == pytest.approx([0.0, 0.19, 64 * 64])
    assert told.most_rows == (10 if shares else 1)


def test_a_model_that_left_models_yaml_is_forgotten(front: Front) -> None:
    front.watch.forget_all_but(frozenset())
    assert not front.watch._known
