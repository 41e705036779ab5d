"""Why a run computes all of its steps."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.facts.schedulers import DISCRETE, FLOW
from pipelines.facts.step_cache import MIN_STEPS, obstacle, problem, rule


@pytest.mark.parametrize("sampler", [*DISCRETE.values(), *FLOW.values()], ids=[*DISCRETE, *FLOW])
@pytest.mark.parametrize("steps", [1, MIN_STEPS - 1, MIN_STEPS, 20, 50])
def test_where_there_is_a_rule_there_is_no_obstacle(sampler: tuple[str, dict[str, Any]], steps: int) -> None:
    said = obstacle(*sampler, steps)
    assert (said is None) == (rule(*sampler, steps, 0.5) is not None)
    assert problem(sampler[0]) in (None, said)


@pytest.mark.parametrize(
    ("sampler", "config", "steps", "said"),
    [
        ("LCMScheduler", {}, 20, "lcm draws few steps"),
        ("PNDMScheduler", {}, 20, "PNDMScheduler"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 20, "fresh noise"),
        ("DDIMScheduler", {}, 8, "8 steps are fewer than 12"),
    ],
)
def test_the_obstacle_is_named(sampler: str, config: dict[str, Any], steps: int, said: str) -> None:
    assert said in str(obstacle(sampler, config, steps))
