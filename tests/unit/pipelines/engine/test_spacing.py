"""A dense start: schedulers that draw some steps of a finer schedule of their own."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from pipelines.engine.spacing import densify
from pipelines.engine.view import make_scheduler
from pipelines.facts.spacing import dense_start

NOISE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NAMES = ("ddim", "euler", "dpmpp_2m", "unipc", "flow_euler", "flow_dpmpp_2m", "flow_unipc")


def own(name: str, **more: Any) -> Any:
    if name.startswith("flow"):
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.DDIMScheduler(**NOISE, **{"timestep_spacing": "trailing", "clip_sample": False, **more})


def dense(name: str, drawn: int, **more: Any) -> Any:
    scheduler = make_scheduler(own(name, **more), name)
    densify(scheduler, drawn)
    return scheduler


def is_subset(some: torch.Tensor, others: torch.Tensor) -> bool:
    return set(some.tolist()) <= set(others.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_are_some_of_a_finer_schedule(name: str) -> None:
    scheduler, finer = dense(name, 15), make_scheduler(own(name), name)
    plain = make_scheduler(own(name), name)
    scheduler.set_timesteps(15, device="cpu")
    finer.set_timesteps(25)
    plain.set_timesteps(15)
    assert len(scheduler.timesteps) == 15
    assert torch.equal(scheduler.timesteps, finer.timesteps[list(dense_start(15, 15)[1])])
    assert scheduler.timesteps[0] == plain.timesteps[0]
    assert scheduler.timesteps[5] > plain.timesteps[5]
    if hasattr(scheduler, "sigmas"):
        assert len(scheduler.sigmas) == 16
        assert is_subset(scheduler.sigmas, finer.sigmas)
        assert scheduler.sigmas[-1] == plain.sigmas[-1]
    assert inspect.signature(scheduler.set_timesteps) == inspect.signature(plain.set_timesteps)


@pytest.mark.parametrize("name", NAMES)
def test_all_steps_are_made_and_end_without_noise(name: str) -> None:
    """DDIM counts on as many timesteps at every step: from the dense part it would have jumped to where nothing was."""
    scheduler = dense(name, 12)
    scheduler.set_timesteps(12)
    # Whose denoiser knows the picture: any path that ends at the last level ends there.
    picture = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    x = (
        torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2)) * scheduler.init_noise_sigma
        if hasattr(scheduler, "init_noise_sigma")
        else torch.randn(1, 4, 4, 4)
    )
    for n, timestep in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(_told(scheduler, n, timestep, given, picture), timestep, x, return_dict=False)[0]
    assert float((x - picture).abs().max()) < 0.05


def _told(scheduler: Any, n: int, timestep: Any, x: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """The velocity or the noise that leads to the picture."""
    if not hasattr(scheduler, "alphas_cumprod"):
        level: torch.Tensor = scheduler.sigmas[n]
        return (x - picture) / level
    signal: torch.Tensor = scheduler.alphas_cumprod[int(timestep)]
    return (x - signal.sqrt() * picture) / (1 - signal).sqrt()


def test_ddim_steps_from_each_timestep_to_the_next() -> None:
    scheduler = dense("ddim", 12)
    scheduler.set_timesteps(12)
    x = torch.randn(1, 4, 4, 4)
    places = [*scheduler.timesteps.tolist(), -1]
    for here, there in itertools.pairwise(places):
        output = torch.tanh(x)
        after = scheduler.alphas_cumprod[there] if there >= 0 else scheduler.final_alpha_cumprod
        now = scheduler.alphas_cumprod[here]
        clean = (x - (1 - now).sqrt() * output) / now.sqrt()
        expected = after.sqrt() * clean + (1 - after).sqrt() * output
        x = scheduler.step(output, torch.tensor(here), x, return_dict=False)[0]
        torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("mu", [None, 0.8])
def test_levels_that_a_pipeline_brings_are_refined(mu: float | None) -> None:
    config: dict[str, Any] = {"use_dynamic_shifting": True} if mu else {"shift": 3.0}
    asked: dict[str, Any] = {} if mu is None else {"mu": mu}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    finer = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    densify(scheduler, 15)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 15, 15), device="cpu", **asked)
    finer.set_timesteps(sigmas=np.linspace(1.0, 1 / 25, 25), **asked)
    torch.testing.assert_close(scheduler.sigmas[:-1], finer.sigmas[list(dense_start(15, 15)[1])])
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 15


@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp_2m", "unipc"])
def test_a_schedule_that_leads_begins_where_the_noise_is(name: str) -> None:
    """dpmpp_2m leads from timestep 950 with 50 steps, with the finer 83 from 913: too little for what is pure noise."""
    scheduler = dense(name, 50, timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(50)
    assert float(scheduler.timesteps[0]) == 999


@pytest.mark.parametrize("name", ["euler_a", "lcm"])
def test_what_takes_none_draws_as_by_default(name: str) -> None:
    scheduler, plain = dense(name, 12), make_scheduler(own(name), name)
    scheduler.set_timesteps(12)
    plain.set_timesteps(12)
    assert torch.equal(scheduler.timesteps, plain.timesteps)


def test_few_steps_are_drawn_as_by_default() -> None:
    scheduler, plain = dense("ddim", 7), own("ddim")
    scheduler.set_timesteps(7)
    plain.set_timesteps(7)
    assert torch.equal(scheduler.timesteps, plain.timesteps)
