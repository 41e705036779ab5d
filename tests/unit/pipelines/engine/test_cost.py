"""What a step costs, read from measurements, and how many rows that allows."""

from __future__ import annotations

import pytest

from pipelines.engine.cost import StepCost, fit_cost, with_all


def test_a_cost_is_read_from_its_samples() -> None:
    cost = fit_cost([(rows, 0.013 + 0.0065 * rows) for rows in (2, 4, 8, 16)], area=4096)
    assert cost.fixed_s == pytest.approx(0.013)
    assert cost.row_s == pytest.approx(0.0065)


def test_no_more_rows_than_were_seen_to_bring_more() -> None:
    rising = [(rows, 0.015 + 0.005 * rows) for rows in (2, 4, 8, 16)]
    unbounded, bounded = fit_cost([*rising, (32, 0.175)], 4096), fit_cost([*rising, (32, 0.25)], 4096)
    assert unbounded.most_rows(4096) == 22
    assert bounded.most_rows(4096) == 16
    assert bounded.most_rows(2048) == 32, "half the latents a row, twice the rows fill the same cache"


def test_a_noisy_measurement_is_taken_for_no_line() -> None:
    cost = fit_cost([(2, 0.6), (4, 0.1), (8, 0.9), (16, 0.2)], area=4096)
    assert cost.row_s == pytest.approx(0.2 / 16), "the best rate is all that it tells"
    assert cost.most_rows(4096) == 64


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


def line(fixed_s: float, row_s: float, *rows: int) -> list[tuple[int, float]]:
    return [(each, fixed_s + row_s * each) for each in rows]


def test_a_device_that_one_request_fills_is_given_one_request() -> None:
    """It was given 8 rows at least: equal requests then progress together, all end late, and nothing is won."""
    samples = line(0.001, 0.087, 2, 4, 8, 16, 32)  # SDXL at 1024 on a 24 GB card, by estimate
    sure, unsure = fit_cost(samples, 65536, min_rows=2), fit_cost(samples, 65536)
    assert sure.most_rows(65536) == 2
    assert unsure.most_rows(65536) == 8, "a busy machine's figures are not believed that far"


def test_rows_that_only_hide_the_hosts_launches_are_as_few_as_hide_them() -> None:
    """SDXL at 1024 on an H200: the host needs 80 to 90 ms to launch a step, whatever its rows."""
    measured = [(2, 0.0871), (4, 0.0896), (8, 0.1426), (16, 0.2708), (32, 0.54)]
    cost = fit_cost(measured, 65536, min_rows=2)
    assert 8 <= cost.most_rows(65536) <= 9


def test_a_rate_that_is_not_sure_is_not_taken_for_the_best() -> None:
    """A number of rows that few steps have had, on a busy machine, seemed to bring more than all others."""
    samples = [(2, 0.025), (4, 0.02), (8, 0.055), (16, 0.095), (32, 0.175)]
    assert fit_cost(samples, 4096, errors=[0.01, 0.0, 0.01, 0.01, 0.01]).most_rows(4096) == 8
    assert fit_cost(samples, 4096, errors=[0.01, 0.3, 0.01, 0.01, 0.01]).most_rows(4096) > 32


def test_an_idle_device_gets_many_rows_on_cuda_too() -> None:
    """As many as bring 0.92 of what 64 do: of 64 that end together, half could have ended in a little over half."""
    cost = fit_cost(line(0.024, 0.001, 2, 4, 8, 16, 32), 4096, min_rows=2)
    assert cost.most_rows(4096) == 49


def test_rows_are_not_taken_to_be_free_by_two_sizes_that_are_near_each_other() -> None:
    """On a busy machine steps of 2 rows took as long as those of 4, and one device was given all that there was."""
    near = fit_cost([(2, 0.134), (4, 0.134)], 1, errors=[0.05, 0.05])
    assert near.fixed_s + 4 * near.row_s == pytest.approx(0.134)
    assert near.row_s == pytest.approx(0.25 * 0.134 / 4)
    assert near.most_rows(1) == 41
    far = fit_cost([(2, 0.134), (16, 0.148)], 1, errors=[0.05, 0.05])
    assert (far.fixed_s, far.row_s) == pytest.approx((0.132, 0.001))


def test_a_few_more_than_the_bound_are_not_left_out() -> None:
    """Eight clients' 16 rows and the 2 of a long run, where 17 are worth their time: it waited 20 times its own."""
    assert with_all(17, 18) == 18
    assert with_all(16, 20) == 20
    assert with_all(16, 21) == 16
    assert with_all(16, 9) == 16
    assert with_all(2, 4) == 2, "where one request fills the device, two take turns"
