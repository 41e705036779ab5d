"""Which steps of a finer schedule a dense start takes, and of which schedulers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.facts.schedulers import DISCRETE, FLOW
from pipelines.facts.spacing import MIN_DENSE_STEPS, dense_start, steps_drawn, takes_dense_start


def test_a_fifth_of_the_finer_schedule_is_drawn_whole_and_the_rest_evenly() -> None:
    finer, chosen = dense_start(15, 15)
    assert finer == 25
    assert chosen == (0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24)
    assert dense_start(8, 8) == (13, (0, 1, 2, 4, 6, 8, 10, 12))


@given(st.integers(MIN_DENSE_STEPS, 500), st.floats(0.01, 1.0))
def test_the_steps_are_in_order_and_go_to_the_end(steps: int, strength: float) -> None:
    drawn = steps_drawn(steps, strength)
    if drawn < MIN_DENSE_STEPS:
        return
    finer, chosen = dense_start(steps, drawn)
    assert len(chosen) == steps
    assert list(chosen) == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, finer - 1)


@pytest.mark.parametrize("strength", [0.5, 0.6, 0.8])
def test_an_edit_begins_with_as_much_noise_as_by_default(strength: float) -> None:
    """The last 12 of 20 steps of a dense start would have begun far nearer to the noise than 0.6 of the way."""
    for steps in (20, 28, 40):
        drawn = steps_drawn(steps, strength)
        finer, chosen = dense_start(steps, drawn)
        begins = chosen[steps - drawn] / finer
        assert abs(begins - (steps - drawn) / steps) < 1 / steps
        assert chosen[steps - drawn + 1] == chosen[steps - drawn] + 1  # and densely from there


def test_schedulers_that_draw_noise_or_count_evenly_take_none() -> None:
    taking = {name for name, (kind, options) in {**DISCRETE, **FLOW}.items() if takes_dense_start(kind, options)}
    assert taking == {"ddim", "euler", "dpmpp_2m", "unipc", "flow_euler", "flow_unipc", "flow_dpmpp_2m"}
    assert not takes_dense_start("PNDMScheduler", {})
    assert not takes_dense_start("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"})
    assert not takes_dense_start("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True})
