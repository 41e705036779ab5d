"""Solvers for flows: diffusers' arithmetic, on the levels of diffusers' Euler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from pipelines.engine.view import make_scheduler

SOLVERS = ("flow_dpmpp_2m", "flow_unipc")
Velocity = Callable[[torch.Tensor, float], torch.Tensor]


def euler(**config: Any) -> Any:
    return FlowMatchEulerDiscreteScheduler(**config)


def solve(scheduler: Any, velocity: Velocity, noise: torch.Tensor, begin: int = 0) -> torch.Tensor:
    x = noise
    for timestep, level in zip(scheduler.timesteps[begin:], scheduler.sigmas[begin:-1], strict=True):
        x = scheduler.step(velocity(x, float(level)), timestep, x, return_dict=False)[0]
    return x


def of_normal(x: torch.Tensor, level: float) -> torch.Tensor:
    """The velocity of pictures whose every number is normal, around 0 and 0.3 wide."""
    wide = 0.3**2
    return x * (level - (1 - level) * wide) / (level**2 + (1 - level) ** 2 * wide)


def bent(x: torch.Tensor, level: float) -> torch.Tensor:
    return torch.tanh(x.flip(-1) * 2) + level * x - 0.2


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [2, 9, 20])
@pytest.mark.parametrize(
    ("name", "kind"), [(SOLVERS[0], DPMSolverMultistepScheduler), (SOLVERS[1], UniPCMultistepScheduler)]
)
def test_its_arithmetic_is_diffusers_own(name: str, kind: Any, steps: int, shift: float) -> None:
    ours = make_scheduler(euler(shift=shift), name)
    ours.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    theirs = kind(prediction_type="flow_prediction", use_flow_sigmas=True)
    theirs.set_timesteps(steps)
    theirs.timesteps, theirs.sigmas = ours.timesteps, ours.sigmas.clone()
    theirs.sigmas[0] -= 1e-6  # as UniPC cuts it: its logarithm would be infinite
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(solve(ours, bent, noise), solve(theirs, bent, noise), atol=2e-5, rtol=0)


def test_each_is_nearer_to_the_solution_than_euler() -> None:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    off = {}
    for name in ("flow_euler", *SOLVERS):
        scheduler = make_scheduler(euler(), name)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 20, 20))
        off[name] = float((solve(scheduler, of_normal, noise) - 0.3 * noise).abs().max())
    assert off["flow_dpmpp_2m"] < off["flow_euler"] / 3
    assert off["flow_unipc"] < off["flow_euler"] / 3


LEVELS = {
    "a count (SD3, Sana, AuraFlow)": ({"shift": 3.0}, {"num_inference_steps": 7}),
    "levels (Z-Image)": ({"shift": 3.0}, {"sigmas": torch.linspace(1.0, 1 / 7, 7).tolist()}),
    "levels, shifted by size (FLUX)": ({"use_dynamic_shifting": True}, {"sigmas": np.linspace(1, 1 / 7, 7), "mu": 0.9}),
    "to an end (Qwen-Image)": (
        {"use_dynamic_shifting": True, "shift_terminal": 0.02},
        {"sigmas": np.linspace(1, 1 / 7, 7), "mu": 0.7},
    ),
    "linear shifts": (
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"sigmas": np.linspace(1, 1 / 7, 7), "mu": 2.0},
    ),
    "Karras": ({"use_karras_sigmas": True}, {"num_inference_steps": 7}),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("config", "asked"), LEVELS.values(), ids=LEVELS)
def test_its_levels_are_those_of_the_models_own_euler(name: str, config: Any, asked: Any) -> None:
    """diffusers' own solvers take no levels, or no shift, and round the timesteps that the model is asked for."""
    own = euler(**config)
    made = make_scheduler(own, name)
    own.set_timesteps(**asked)
    made.set_timesteps(**asked)
    assert torch.equal(made.sigmas, own.sigmas)
    assert torch.equal(made.timesteps, own.timesteps)
    assert inspect.signature(made.set_timesteps) == inspect.signature(own.set_timesteps)  # which pipelines look at
    assert {"generator", "return_dict"} <= inspect.signature(made.step).parameters.keys()


@pytest.mark.parametrize("name", SOLVERS)
def test_an_edit_begins_in_the_midst_with_eulers_noise(name: str) -> None:
    own, made = euler(shift=3.0), make_scheduler(euler(shift=3.0), name)
    picture, noise = torch.full((1, 4, 4, 4), 0.3), torch.randn(1, 4, 4, 4)
    noised = []
    for scheduler in (own, made):
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(4)
        noised.append(scheduler.scale_noise(picture, scheduler.timesteps[4:5], noise))
    assert torch.equal(*noised)
    assert torch.isfinite(solve(made, bent, noised[0], begin=4)).all()
    assert made.step_index == 10


@pytest.mark.parametrize("name", SOLVERS)
def test_levels_without_noise_before_the_end_change_nothing(name: str) -> None:
    scheduler = make_scheduler(euler(), name)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, 6))
    x, seen = torch.randn(1, 4, 4, 4), []
    for timestep, level in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(bent(x, float(level)), timestep, x, return_dict=False)[0]
        seen.append(x)
    assert torch.isfinite(x).all()
    assert torch.equal(seen[-1], seen[-2])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_second_run_of_a_scheduler_knows_nothing_of_the_first(name: str) -> None:
    scheduler, noise = make_scheduler(euler(), name), torch.randn(1, 4, 4, 4)
    drawn = []
    for _ in range(2):
        scheduler.set_timesteps(6)
        drawn.append(solve(scheduler, bent, noise))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", SOLVERS)
def test_half_precision_stays_what_it_is(name: str) -> None:
    scheduler = make_scheduler(euler(), name)
    scheduler.set_timesteps(12)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    drawn = solve(scheduler, bent, noise.to(torch.bfloat16))
    assert drawn.dtype == torch.bfloat16
    scheduler.set_timesteps(12)
    assert float((drawn.float() - solve(scheduler, bent, noise)).abs().max()) < 0.05


def test_a_shift_is_kept_under_its_other_name() -> None:
    """Sana's folders have DPMSolverMultistepScheduler, whose shift is called flow_shift: flow_euler drew without it."""
    own = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    for name in ("flow_euler", "flow_heun", *SOLVERS):
        assert math.isclose(make_scheduler(own, name).config.shift, 3.0), name
