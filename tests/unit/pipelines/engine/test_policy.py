"""Who shares the next step: least work first, nobody starves, principals are fair, rows are bounded."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipelines.engine.cost import StepCost
from pipelines.engine.policy import choose


@dataclass(eq=False)
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


@pytest.mark.parametrize("rows", [1, 2])
def test_equal_requests_do_not_all_end_late_on_a_device_that_one_fills(rows: int) -> None:
    """Eight at once took 1.78 times as long, in the mean, as one after another."""
    unsure, sure = StepCost(0.0, 0.001, area=1024), StepCost(0.0, 0.001, area=1024, min_rows=rows)
    first_come_s = sum(range(1, 9)) * 30 * sure.row_s * rows
    assert _seconds_of_eight(rows, unsure) > 1.2 * first_come_s
    assert _seconds_of_eight(rows, sure) <= 1.1 * first_come_s


def _seconds_of_eight(rows: int, cost: StepCost) -> float:
    """The sum of the latencies of eight equal requests of 30 steps that come at once."""
    waiting = [Waiter(30, rows) for _ in range(8)]
    now_s = total_s = 0.0
    while waiting:
        chosen = choose(waiting, {"k": cost.most_rows(1024)})
        now_s += cost.row_s * sum(waiter.rows for waiter in chosen)
        for waiter in waiting:
            if waiter in chosen:
                waiter.steps_left -= 1
            else:
                waiter.passed_over += 1
        total_s += now_s * sum(waiter.steps_left == 0 for waiter in waiting)
        waiting = [waiter for waiter in waiting if waiter.steps_left]
    return total_s
