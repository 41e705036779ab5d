"""Who shares the next step: least work first, nobody starves, principals are fair, rows are bounded."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


def mean_end(rows: int, most_rows: int) -> float:
    """When eight equal requests end, in the mean, on a device that one row fills: in rows that were drawn."""
    waiting, now, ends = [Waiter(20, rows) for _ in range(8)], 0, list[int]()
    while waiting:
        chosen = choose(waiting, {"k": most_rows})
        now += sum(one.rows for one in chosen)
        for one in waiting:
            one.passed_over += one not in chosen
        for one in chosen:
            one.steps_left -= 1
        ends += [now for one in chosen if not one.steps_left]
        waiting = [one for one in waiting if one.steps_left]
    return sum(ends) / len(ends)


@pytest.mark.parametrize("rows", [1, 2])
def test_equal_requests_do_not_all_end_late_on_a_device_that_one_fills(rows: int) -> None:
    """Eight at once took 1.78 times as long, in the mean, as one after another (python -m bench.order)."""
    first_come = sum(20 * rows * (place + 1) for place in range(8)) / 8
    unsure = StepCost(0.0, 0.012, area=1)
    assert mean_end(rows, unsure.most_rows(1)) > 1.3 * first_come
    assert mean_end(rows, replace(unsure, min_rows=rows).most_rows(1)) <= 1.1 * first_come
