"""What a step costs, read from measurements, and how many rows that allows."""

from __future__ import annotations

import pytest

from pipelines.engine.cost import StepCost, fit_cost


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
