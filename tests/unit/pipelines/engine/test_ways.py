"""What steps of a size cost is learnt of one way of launching them at a time."""

from __future__ import annotations

import pytest

from pipelines.engine.learning import Curve, StepCosts
from pipelines.engine.ways import Told, Ways


def test_a_size_goes_by_the_way_that_its_steps_have_had_lately() -> None:
    ways = Ways()
    assert [ways.told(2, 64, replayed=False) for _ in range(3)] == [Told.AGAIN] * 3
    assert [ways.told(2, 64, replayed=True) for _ in range(5)] == [Told.NOTHING] * 3 + [Told.ANEW, Told.AGAIN]
    assert ways.told(2, 64, replayed=False) is Told.NOTHING, "rows with adapters, now and then"
    assert ways.told(2, 64, replayed=True) is Told.AGAIN
    assert [ways.told(2, 64, replayed=False) for _ in range(4)][-1] is Told.ANEW


def test_sizes_know_nothing_of_each_other() -> None:
    ways = Ways()
    assert [ways.told(2, 64, replayed=True) for _ in range(4)][-1] is Told.ANEW
    assert ways.told(4, 64, replayed=False) is Told.AGAIN
    assert ways.told(2, 256, replayed=False) is Told.AGAIN


def test_sizes_that_are_kept_are_bounded() -> None:
    ways = Ways()
    for area in range(1000):
        ways.told(2, area, replayed=False)
    assert len(ways._sizes) <= 256


def test_a_size_that_is_forgotten_is_learnt_anew_and_the_others_stay() -> None:
    """Replayed, few rows take what their kernels take; more rows, which gain nothing by it, take what they took."""
    costs = StepCosts(Curve(64, tuple((rows, 0.06 + 0.01 * rows, 0.05) for rows in (2, 4, 8))))
    eager = {2: 0.070, 4: 0.080, 8: 0.140}
    for number in range(120):
        rows = (2, 4, 8)[number % 3]
        costs.learn(rows, 64, eager[rows])
    before = _seconds(costs)
    assert before[2] == _near(0.070)
    costs.forget(2, 64)
    costs.forget(2, 4096)
    for number in range(60):
        rows = (2, 4, 8)[number % 3]
        costs.learn(rows, 64, {**eager, 2: 0.027}[rows])
    after = _seconds(costs)
    assert after[2] == _near(0.027)
    assert after[8] == _near(0.140), "a step that is faster says nothing of the machine's pace"


def test_all_sizes_may_be_forgotten() -> None:
    costs = StepCosts()
    for rows in (2, 2, 2, 2, 4, 4, 4):
        costs.learn(rows, 64, 0.01 * rows)
    costs.forget(2, 64)
    costs.forget(4, 64)
    for rows in (2, 2, 2, 2, 4, 4, 4):
        costs.learn(rows, 64, 0.005 * rows)
    assert _seconds(costs)[4] == _near(0.02)


def _seconds(costs: StepCosts) -> dict[int, float]:
    """By rows."""
    curve = costs.curve()
    assert curve is not None
    return {rows: seconds for rows, seconds, _ in curve.samples}


def _near(seconds: float) -> object:
    return pytest.approx(seconds, rel=0.15)
