"""The loop that every stage runs in: it ends in time, and does without what a machine does not have."""

import os
import signal
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from training import learning, muon
from training.learning import Learner
from training.runtime import Clock, Span
from training.stage import Course

from .standins import DiscMaker

CPU = torch.device("cpu")


class HandClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class LineStage:
    """Learns a line; every batch takes some seconds of a clock moved by hand."""

    name = network = "line"
    figures = ("loss",)

    def __init__(self, hand: HandClock, takes: float, broken_after: int = 10**9) -> None:
        self.course = Course(CPU, DiscMaker(), 8, 0.1)
        self.net = nn.Linear(3, 1)
        self.hand, self.takes, self.broken_after, self.drawn = hand, takes, broken_after, 0

    def groups(self) -> list[dict[str, list[Tensor]]]:
        return [{"params": list(self.net.parameters())}]

    def draw(self, done: float) -> tuple[Tensor, ...]:
        self.hand.time += self.takes
        self.drawn += 1
        x = torch.randn(self.course.batch, 3)
        return x * (float("nan") if self.drawn == self.broken_after else 1), x.sum(1, keepdim=True)

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        x, wanted = inputs
        loss = (self.net(x) - wanted).square().mean()
        return loss, loss[None]

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights


@pytest.mark.parametrize("takes", [0.7, 9.0])
def test_a_stage_ends_before_its_time_however_long_its_steps_are(takes: float) -> None:
    hand = HandClock()
    clock, stage = Clock(1000, hand), LineStage(hand, takes)
    learner = Learner(stage, "eager")
    learner.run(clock, 60, lambda learner: None)
    assert 60 - 2 * takes <= hand.time - 1000 <= 60
    assert learner.seen == 8 * stage.drawn


def test_a_stage_learns_and_its_average_follows() -> None:
    hand = HandClock()
    stage = LineStage(hand, 0.1)
    learner = Learner(stage, "eager")
    learner.run(Clock(1000, hand), 60, lambda learner: None)
    assert torch.allclose(stage.net.weight, torch.ones(1, 3), atol=0.02)
    assert torch.allclose(learner.ema.weights["weight"], torch.ones(1, 3), atol=0.02)


def test_what_comes_between_two_steps_counts_as_time_but_not_as_a_step() -> None:
    hand = HandClock()
    stage = LineStage(hand, 1.0)

    def pause(learner: Learner) -> None:
        hand.time += 5

    Learner(stage, "eager").run(Clock(1000, hand), 60, pause)
    assert stage.drawn == 10
    assert hand.time - 1000 <= 60 + 5


def test_sigterm_ends_a_stage_after_its_step() -> None:
    hand = HandClock()
    clock, stage = Clock(1000, hand), LineStage(hand, 1.0)
    clock.listen()

    def asked(learner: Learner) -> None:
        if learner.seen == 24:
            os.kill(os.getpid(), signal.SIGTERM)

    Learner(stage, "eager").run(clock, 60, asked)
    assert stage.drawn == 3
    assert clock.left == 0


def test_graphs_and_compilers_that_fail_are_told_and_done_without(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **settings: object) -> object:
        def fail(*inputs: Tensor) -> None:
            raise RuntimeError("no compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    for form, reason in (("graph", "no CUDA graphs on a CPU"), ("compile", "no compiler here")):
        hand = HandClock()
        learner = Learner(LineStage(hand, 1.0), form)
        learner.run(Clock(1000, hand), 30, lambda learner: None)
        assert learner.seen > 100
        assert reason in capsys.readouterr().out


def test_a_loss_that_is_no_number_costs_a_few_steps_and_not_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    hand = HandClock()
    stage = LineStage(hand, 0.1, broken_after=300)
    sound: list[dict[str, Tensor]] = []

    def keep(learner: Learner) -> None:
        sound.append({key: weight.clone() for key, weight in learner.ema.weights.items()})

    learner = Learner(stage, "eager")
    learner.run(Clock(1000, hand), 60, keep)
    assert "the loss is not a number" in capsys.readouterr().out
    assert all(weight.isfinite().all() for weights in sound for weight in weights.values())
    assert torch.allclose(stage.net.weight, torch.ones(1, 3), atol=0.02)


def test_a_span_warms_up_and_comes_down() -> None:
    hand = HandClock()
    span = Span(Clock(1000, hand), 100)
    rates = []
    for _ in range(100):
        rates.append(span.rate(1.0))
        hand.time += 1
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == 1.0
    assert rates[60] > rates[80] > rates[99] > 0
    assert span.rate(1.0) == 0


class CountedCapture:
    """Stands in for a CUDA graph: does the step on inputs that were copied to one place."""

    made: ClassVar[list[tuple[torch.Size, ...]]] = []
    broken = False

    def __init__(self, step: Callable[[tuple[Tensor, ...]], Tensor], inputs: tuple[Tensor, ...]) -> None:
        if self.broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.step, self.inputs = step, tuple(given.clone() for given in inputs)
        self.made.append(tuple(given.shape for given in inputs))

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for kept, given in zip(self.inputs, inputs, strict=True):
            kept.copy_(given)
        return self.step(self.inputs)


@pytest.mark.parametrize("broken", [False, True])
def test_a_graph_is_captured_once_a_shape_after_a_few_eager_steps(
    broken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learning, "Captured", CountedCapture)
    monkeypatch.setattr(CountedCapture, "broken", broken)
    monkeypatch.setattr(CountedCapture, "made", [])
    stage = LineStage(HandClock(), 1.0)
    step = learning.Step(stage, "eager")
    step.form = "graph"
    monkeypatch.setattr(step, "_aside", step._eager)
    losses = []
    for n in range(300):
        stage.course.batch = 8 + n % 2
        losses.append(float(step(stage.draw(0), 0.05)))
    assert losses[-1] < 0.01 * losses[0]
    assert len(CountedCapture.made) == (0 if broken else 2)
    assert ("eagerly from here on" in capsys.readouterr().out) == broken


def test_a_batch_that_does_not_fit_is_halved(capsys: pytest.CaptureFixture[str]) -> None:
    hand = HandClock()

    class LargeStage(LineStage):
        """Small batches alone fit."""

        def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
            if len(inputs[0]) > learning.MIN_BATCH:
                raise torch.OutOfMemoryError("of the test")
            return super().loss(*inputs)

    learner = Learner(LargeStage(hand, 1.0), "eager")
    learner.run(Clock(1000, hand), 30, lambda learner: None)
    assert learner.stage.course.batch == learning.MIN_BATCH
    assert learner.seen >= 20 * learning.MIN_BATCH
    assert "batches of 4 from here on" in capsys.readouterr().out


class MatrixStage(LineStage):
    """The same with a hidden layer, whose matrix has steps of its own."""

    def __init__(self, hand: HandClock) -> None:
        super().__init__(hand, 0.5)
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))  # type: ignore[assignment]

    def groups(self) -> list[dict[str, Any]]:
        return muon.groups(self.net, self.net[1])  # type: ignore[index]


def test_matrices_learn_beside_all_other_weights(capsys: pytest.CaptureFixture[str]) -> None:
    hand = HandClock()
    stage = MatrixStage(hand)
    before = {name: weight.detach().clone() for name, weight in stage.net.named_parameters()}
    Learner(stage, "eager").run(Clock(1000, hand), 80, lambda learner: None)
    assert all(not torch.equal(weight, before[name]) for name, weight in stage.net.named_parameters())
    losses = [float(line.rsplit("loss ")[-1]) for line in capsys.readouterr().out.splitlines() if "loss " in line]
    assert losses[-1] < 0.2 * losses[0]
