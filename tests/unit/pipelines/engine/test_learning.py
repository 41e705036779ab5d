"""What steps cost is learnt from the steps: on a paper clock, with machines that are busy, full, or wrongly guessed."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from pipelines.engine.cost import MIN_ROWS
from pipelines.engine.learning import Curve, StepCosts

AREA = 4096

Truth = Callable[[int], float]


def line(fixed_s: float, row_s: float) -> Truth:
    return lambda rows: fixed_s + row_s * rows


def host_bound(rows: int) -> float:
    """Launching a step takes the host 80 ms, whatever its rows: SDXL at 1024 on an H200."""
    return max(0.08, 0.0168 * rows)


def cache_peak(rows: int) -> float:
    """More than 16 rows outgrow a cache."""
    return (0.015 + 0.005 * rows) * (1.0 if rows <= 16 else 1.7)


class Machine:
    """Steps of requests of two rows each, of which so many wait, on a machine that others keep busy."""

    def __init__(self, truth: Truth, costs: StepCosts | None = None, *, waiting: int = 64, seed: int = 1) -> None:
        self.truth = truth
        self.costs = costs or StepCosts()
        self.waiting = waiting
        self.busy = 1.0
        self.noise = 0.03
        self.clock_s = 0.0
        self.rows = 0  # drawn so far
        self._dice = random.Random(seed)

    def step(self, *, slow: float = 1.0) -> int:
        """One step; the rows that it had."""
        bound = self.costs.to_try(self.costs.most_rows(AREA), self.waiting, AREA)
        rows = max(2, min(bound, self.waiting) // 2 * 2)
        seconds = self.truth(rows) * self.busy * slow * self._dice.uniform(1 - self.noise, 1 + self.noise)
        self.costs.learn(rows, AREA, seconds)
        self.clock_s += seconds
        self.rows += rows
        return rows

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def rate(self, count: int = 64) -> float:
        """Rows a second over the next steps."""
        rows, began_s = self.rows, self.clock_s
        self.steps(count)
        return (self.rows - rows) / (self.clock_s - began_s)


def guessed(truth: Truth, *rows: int, times: float = 1.0, min_rows: int = MIN_ROWS) -> StepCosts:
    """As after a check at load, which saw few sizes."""
    return StepCosts(Curve(AREA, tuple((each, times * truth(each), 0.05) for each in rows), min_rows))


def best_rate(truth: Truth) -> float:
    return max(rows / truth(rows) for rows in range(2, 65, 2))


@pytest.mark.parametrize("truth", [line(0.024, 0.001), line(0.013, 0.0065), host_bound, cache_peak])
def test_a_quiet_start_comes_near_the_best_at_once(truth: Truth) -> None:
    machine = Machine(truth, guessed(truth, 2, 4))
    machine.steps(64)
    assert machine.rate() >= 0.9 * best_rate(truth)


@pytest.mark.parametrize("truth", [line(0.024, 0.001), line(0.013, 0.0065), host_bound, cache_peak])
@pytest.mark.parametrize("seed", range(5))
def test_a_busy_start_is_as_good_as_a_quiet_one_soon_after(truth: Truth, seed: int) -> None:
    """A model that was loaded at a load average of 10 was bound to 5 rows a step of 64 for as long as it was there."""
    busy = Machine(truth, guessed(truth, 2, 4, times=10.0), seed=seed)
    busy.busy, busy.noise = 3.0, 0.6
    busy.steps(200)
    busy.busy, busy.noise = 1.0, 0.03
    busy.steps(200)
    assert busy.rate() >= best_rate(truth) / 1.3


@pytest.mark.parametrize("times", [1.0, 10.0])
@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("truth", [line(0.024, 0.001), line(0.002, 0.012), host_bound])
def test_a_wrong_guess_is_found_out(truth: Truth, rows: int, times: float) -> None:
    """One that says a single row fills the device, and one that says more rows cost nothing."""
    told = ((1, 0.1 * times, 0.01), (2, 0.2 * times, 0.01), (4, 0.4 * times, 0.01))
    if rows == 64:
        told = ((2, 0.1 * times, 0.01), (8, 0.1 * times, 0.01), (64, 0.1 * times, 0.01))
    machine = Machine(truth, StepCosts(Curve(AREA, told, min_rows=2)))
    machine.steps(300)
    right = Machine(truth, guessed(truth, 2, 4, 8, 16, 32, 64, min_rows=2))
    right.steps(300)
    assert machine.rate() >= 0.93 * right.rate()
    found, expected = machine.costs.most_rows(AREA), right.costs.most_rows(AREA)
    assert expected / 2 <= found <= 2 * expected


def test_one_slow_step_moves_neither_much() -> None:
    machine = Machine(line(0.013, 0.0065), guessed(line(0.013, 0.0065), 2, 4))
    machine.steps(200)
    bound, cost = machine.costs.most_rows(AREA), machine.costs.cost()
    machine.step(slow=100.0)
    assert machine.costs.most_rows(AREA) == pytest.approx(bound, rel=0.1)
    machine.steps(20)
    after = machine.costs.cost()
    assert cost is not None
    assert after is not None
    assert after.fixed_s + 16 * after.row_s == pytest.approx(cost.fixed_s + 16 * cost.row_s, rel=0.1)


@pytest.mark.parametrize("slow_at", range(12))
def test_a_slow_step_among_the_first_is_forgotten(slow_at: int) -> None:
    truth = line(0.013, 0.0065)
    machine = Machine(truth, guessed(truth, 2, 4))
    for number in range(200):
        machine.step(slow=100.0 if number == slow_at else 1.0)
    assert machine.rate() >= 0.9 * best_rate(truth)
    cost = machine.costs.cost()
    assert cost is not None
    assert cost.fixed_s + 16 * cost.row_s == pytest.approx(truth(16), rel=0.15)


@pytest.mark.parametrize("shift", [3.0, 1 / 3])
def test_a_busy_minute_moves_the_cost_and_no_bound(shift: float) -> None:
    machine = Machine(line(0.013, 0.0065), guessed(line(0.013, 0.0065), 2, 4))
    machine.steps(300)
    bound = machine.costs.most_rows(AREA)
    machine.busy = shift
    machine.steps(15)
    cost = machine.costs.cost()
    assert cost is not None
    assert cost.fixed_s + 16 * cost.row_s == pytest.approx(shift * machine.truth(16), rel=0.15)
    machine.steps(100)
    assert machine.costs.most_rows(AREA) == pytest.approx(bound, rel=0.15)


def test_a_device_that_is_full_keeps_to_few_rows() -> None:
    machine = Machine(line(0.002, 0.012), guessed(line(0.002, 0.012), 2, 4, min_rows=2))
    machine.steps(100)
    assert machine.costs.most_rows(AREA) <= 8
    sizes = [machine.step() for _ in range(400)]
    assert sum(size > machine.costs.most_rows(AREA) for size in sizes) <= 400 / 16 + 1


def test_a_bound_that_stands_is_tried_ever_more_seldom() -> None:
    machine = Machine(line(0.013, 0.0065), guessed(line(0.013, 0.0065), 2, 4, min_rows=2))
    machine.noise = 0.01
    machine.steps(2000)
    sizes = [machine.step() for _ in range(2000)]
    usual = max(set(sizes), key=sizes.count)
    assert sum(not usual / 1.5 <= size <= usual * 1.5 for size in sizes) <= 2000 / 100


def test_no_step_is_tried_that_takes_more_than_two_seconds() -> None:
    """For so long nobody joins, leaves or moves on."""
    machine = Machine(line(0.0, 0.4), guessed(line(0.0, 0.4), 2, 4))
    assert max(machine.step() for _ in range(200)) <= 5


def test_no_bound_is_beyond_twice_what_was_seen() -> None:
    costs = guessed(line(0.1, 0.0001), 2, 4, 8)
    assert costs.most_rows(AREA) == 16
    for _ in range(3):
        costs.learn(16, AREA, 0.1016)
    assert costs.most_rows(AREA) == 32


def test_another_size_of_pictures_begins_with_what_is_known() -> None:
    costs = guessed(line(0.013, 0.0065), 2, 4, 8, 16)
    assert costs.most_rows(AREA * 4) < costs.most_rows(AREA)
    for _ in range(10):
        costs.learn(4, AREA * 4, 0.013 + 4 * 0.026)
    there = costs.cost(AREA * 4)
    assert there is not None
    assert there.area == AREA * 4
    assert there.row_s == pytest.approx(0.026, rel=0.05)


def test_sizes_of_pictures_are_not_kept_without_end() -> None:
    costs = StepCosts()
    for _ in range(20):
        costs.learn(2, AREA, 0.1)
    for area in range(1, 1000):
        costs.learn(2, area, 0.1)
    assert len(costs._areas) <= 8
    curve = costs.curve()
    assert curve is not None
    assert curve.area == AREA, "the one with the most steps stays"


def test_of_one_size_alone_a_row_is_taken_to_cost_all() -> None:
    """So it is with a model that runs one request at a time."""
    costs = StepCosts()
    assert (costs.cost(), costs.curve(), costs.steps, costs.is_guess) == (None, None, 0, True)
    assert costs.most_rows(AREA) == 16
    for _ in range(10):
        costs.learn(2, AREA, 0.4)
    cost = costs.cost()
    assert cost is not None
    assert (cost.fixed_s, cost.row_s) == pytest.approx((0.0, 0.2))
    assert costs.most_rows(AREA) == 10, "two seconds' worth"


def test_what_was_learnt_is_the_next_starts_guess() -> None:
    machine = Machine(line(0.013, 0.0065), guessed(line(0.013, 0.0065), 2, 4))
    machine.steps(300)
    curve = machine.costs.curve()
    assert curve is not None
    kept = msgspec.json.decode(msgspec.json.encode(curve), type=Curve)
    again = StepCosts(kept)
    assert again.curve() == kept
    assert (again.steps, again.is_guess) == (0, True)
    assert again.most_rows(AREA) == pytest.approx(machine.costs.most_rows(AREA), rel=0.1)
    assert not kept.moved(curve)


@pytest.mark.parametrize(
    ("samples", "moved"),
    [
        (((2, 0.1, 0.01), (4, 0.2, 0.01)), False),
        (((2, 0.104, 0.01), (4, 0.208, 0.01)), False),
        (((2, 0.12, 0.01), (4, 0.24, 0.01)), True),
        (((2, 0.19, 0.01), (4, 0.2, 0.01)), True),
    ],
)
def test_a_curve_has_moved_with_its_cost(samples: tuple[tuple[int, float, float], ...], moved: bool) -> None:
    before = Curve(AREA, ((2, 0.1, 0.01), (4, 0.2, 0.01)))
    assert Curve(AREA, samples).moved(before) is moved


def test_what_the_check_saw_is_a_guess() -> None:
    """A size that too few of its steps had counts all the same; the least that it took, for the first was slow."""
    costs = StepCosts()
    for rows, seconds in ((2, 0.9), (2, 0.11), (2, 0.1), (4, 0.5), (4, 0.2)):
        costs.learn(rows, AREA, seconds)
    guess = costs.guessed()
    curve = guess.curve()
    assert curve is not None
    assert (guess.steps, guess.is_guess) == (0, True)
    assert {rows: seconds for rows, seconds, _ in curve.samples} == pytest.approx({2: 0.11, 4: 0.2}, rel=0.2)
