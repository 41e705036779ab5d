"""Sampling: from prompts to pictures with the whole pipeline, and from scene codes to latents with the UNet alone.

Knows pipelines, schedulers and seeds; knows neither how a network was trained nor what a picture should show.
"""

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from . import runtime

STEPS, GUIDANCE, BATCH = 8, 2.0, 16


def generate(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Image.Image]:
    """One picture a prompt; the n-th has the seed `seed + n`."""
    made: list[Image.Image] = []
    for i in range(0, len(prompts), BATCH):
        rows = prompts[i : i + BATCH]
        seeds = [torch.Generator().manual_seed(seed + i + n) for n in range(len(rows))]
        with torch.inference_mode():
            made += pipeline(rows, num_inference_steps=steps, guidance_scale=guidance, generator=seeds).images
    return made


@torch.no_grad()
def sample_codes(
    unet: torch.nn.Module,
    scheduler: DDIMScheduler,
    cond: Tensor,  # (B, LENGTH, WIDTH), a scene's code a row
    uncond: Tensor,  # (1, LENGTH, WIDTH), the code of an empty prompt
    seed: int,
    steps: int,
    guidance: float,
) -> Tensor:  # (B, 4, 16, 16)
    """Latents of scene codes, with classifier-free guidance."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(cond), 4, 16, 16, generator=generator)
    both = torch.cat((uncond.expand_as(cond), cond))
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        with runtime.autocast():
            predicted = unet(torch.cat((latents, latents)), timestep, both).sample.float()
        v_uncond, v_cond = predicted.chunk(2)
        latents = scheduler.step(v_uncond + guidance * (v_cond - v_uncond), timestep, latents).prev_sample
    return latents
