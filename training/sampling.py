"""Sampling: the noise schedule, and from prompts or codes to pictures.

Knows noise, steps and seeds; knows neither how a network was trained nor what a picture should show.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from . import runtime

if TYPE_CHECKING:  # the training itself does without diffusers
    from diffusers import StableDiffusionPipeline

STEPS, GUIDANCE, BATCH = 8, 1.2, 16
TIMES = 1000  # of the schedule
SCHEDULER: dict[str, Any] = {  # the settings of diffusers' DDIMScheduler for the same schedule
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "steps_offset": 1,
}


def alphas() -> Tensor:
    """(TIMES,) shares of the picture in what the network sees: cosine, rescaled to none at the last time."""
    at = [math.cos((n / TIMES + 0.008) / 1.008 * math.pi / 2) ** 2 for n in range(TIMES + 1)]
    kept = torch.tensor([1 - min(1 - at[n + 1] / at[n], 0.999) for n in range(TIMES)], dtype=torch.float64)
    roots = kept.cumprod(0).sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots.square().float()


def time_of(step: int, steps: int) -> int:
    """The time at which one of so many steps begins, the first of them 0: trailing, as diffusers' scheduler has it."""
    return round(TIMES - step * TIMES / steps) - 1


@torch.no_grad()
def sample(
    unet: nn.Module,
    cond: Tensor,  # (B, LENGTH, WIDTH), a prompt or a scene's code a row
    uncond: Tensor,  # (1, LENGTH, WIDTH), those of an empty prompt
    noise: Tensor,  # (B, 4, h, w)
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    first: int = 0,
) -> Tensor:
    """Latents (B, 4, h, w), by DDIM with classifier-free guidance; without it, at half the cost, where it is 1.

    ``noise`` may be latents under the noise of the ``first`` of the steps.
    """
    shares = alphas().tolist()
    guided = guidance != 1
    latents, both = noise, torch.cat((uncond.expand_as(cond), cond)) if guided else cond
    for n in range(first, steps):
        time = time_of(n, steps)
        before = time - TIMES // steps
        share, next_share = shares[time], shares[before] if before >= 0 else 1.0
        times = torch.full((len(both),), time, device=noise.device)
        with runtime.autocast(noise.device):
            v = unet(torch.cat((latents, latents)) if guided else latents, times, both).float()
        if guided:
            v_uncond, v_cond = v.chunk(2)
            v = v_uncond + guidance * (v_cond - v_uncond)
        clean = share**0.5 * latents - (1 - share) ** 0.5 * v
        left = share**0.5 * v + (1 - share) ** 0.5 * latents
        latents = next_share**0.5 * clean + (1 - next_share) ** 0.5 * left
    return latents


def generate(
    pipeline: "StableDiffusionPipeline",
    prompts: list[str],
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Image.Image]:
    """One picture a prompt with a whole pipeline; the n-th has the seed `seed + n`."""
    made: list[Image.Image] = []
    for i in range(0, len(prompts), BATCH):
        rows = prompts[i : i + BATCH]
        seeds = [torch.Generator().manual_seed(seed + i + n) for n in range(len(rows))]
        with torch.inference_mode():
            made += pipeline(rows, num_inference_steps=steps, guidance_scale=guidance, generator=seeds).images
    return made
