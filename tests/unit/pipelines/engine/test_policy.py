"""Who shares the next step: least work first, nobody starves, principals are fair, rows are bounded."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipelines.engine.policy import StepCost, choose, fit_cost


@dataclass
class Waiter:
    steps_left: int
    rows: int = 2
    key: str = "k"
    area: int = 1024
    passed_over: int = 0
    principal: str = "p"
    first: bool = False


def test_least_work_goes_first_and_rows_are_bounded() -> None:
    calls = [Waiter(30), Waiter(4), Waiter(9), Waiter(2)]
    chosen = choose(calls, {"k": 4})
    assert [call.steps_left for call in chosen] == [2, 4]


def test_one_call_is_chosen_however_many_rows_it_has() -> None:
    assert len(choose([Waiter(3, rows=20)], {"k": 4})) == 1


def test_only_calls_that_fit_share() -> None:
    calls = [Waiter(2, key="a"), Waiter(3, key="b"), Waiter(4, key="a")]
    assert [call.key for call in choose(calls, {"a": 64, "b": 64})] == ["a", "a"]


def test_short_stages_go_before_denoiser_steps() -> None:
    calls = [Waiter(1), Waiter(30, key="decode", first=True)]
    assert choose(calls, {})[0].first


def test_a_long_run_is_passed_over_but_never_starved() -> None:
    """An endless stream of four-step runs, on a device with room for one: the thirty-step run still ends."""
    long = Waiter(30)
    short = Waiter(4)
    steps = 0
    while long.steps_left and steps < 3000:
        steps += 1
        (chosen,) = choose([long, short], {"k": 2})
        if chosen is long:
            long.steps_left -= 1
            long.passed_over = 0
            short.passed_over += 1
        else:
            long.passed_over += 1
            short.steps_left -= 1
            if short.steps_left == 0:
                short = Waiter(4)
    assert long.steps_left == 0


def test_one_principals_crowd_does_not_hold_up_another() -> None:
    crowd = [Waiter(8, principal="crowd") for _ in range(20)]
    guest = Waiter(10, principal="guest")
    assert choose([*crowd, guest], {"k": 2}) == [guest]


def test_a_cost_is_read_from_its_samples() -> None:
    cost = fit_cost([(rows, 0.013 + 0.0065 * rows) for rows in (2, 4, 8, 16)], area=4096)
    assert cost is not None
    assert cost.fixed_s == pytest.approx(0.013)
    assert cost.row_s == pytest.approx(0.0065)


def test_no_more_rows_than_were_seen_to_bring_more() -> None:
    rising = [(rows, 0.015 + 0.005 * rows) for rows in (2, 4, 8, 16)]
    unbounded, bounded = fit_cost([*rising, (32, 0.175)], 4096), fit_cost([*rising, (32, 0.25)], 4096)
    assert unbounded is not None
    assert bounded is not None
    assert unbounded.most_rows(4096) > 32
    assert bounded.most_rows(4096) == 16
    assert bounded.most_rows(2048) == 32, "half the latents a row, twice the rows fill the same cache"


def test_a_noisy_measurement_is_not_believed() -> None:
    assert fit_cost([(2, 0.6), (4, 0.1), (8, 0.9), (16, 0.2)], area=4096) is None


def test_the_fuller_the_device_the_fewer_rows() -> None:
    full = StepCost(0.002, 0.012, 4096).most_rows(4096)
    idle = StepCost(0.024, 0.001, 4096).most_rows(4096)
    assert full < idle
    assert StepCost(0.024, 0.001, 4096).most_rows(16 * 4096) < idle


@pytest.mark.parametrize(
    ("cost", "rows"),
    [
        (StepCost(0.0, 0.4, 4096), 5),
        (StepCost(0.0, 2.5, 4096), 1),
        (StepCost(3.0, 0.1, 4096), 20),  # weights that come over the bus at every step are worth sharing
    ],
)
def test_no_more_rows_are_planned_than_take_two_seconds(cost: StepCost, rows: int) -> None:
    """A slow CPU was given the least batch, 8 rows, at any price: a step of minutes looks like a worker that hangs."""
    assert cost.most_rows(4096) == rows
