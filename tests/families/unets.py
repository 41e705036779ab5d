"""Tiny pipelines of the families whose denoiser is a UNet."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch

from tests.families.parts import Rows, clip, clip_projected, discrete, tokenizer, unet, vae


def _stable_diffusion(in_channels: int = 4, **scheduler: Any) -> Any:
    cls = diffusers.StableDiffusionPipeline if in_channels == 4 else diffusers.StableDiffusionInpaintPipeline
    return cls(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(in_channels),
        scheduler=discrete(**scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd1() -> tuple[Any, int]:
    return _stable_diffusion(), 32


def sd2() -> tuple[Any, int]:
    return _stable_diffusion(prediction_type="v_prediction"), 32


def sd_inpainting() -> tuple[Any, int]:
    return _stable_diffusion(in_channels=9), 32


def sdxl() -> tuple[Any, int]:
    denoiser = unet(
        cross=32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip_projected(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=denoiser,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        add_watermarker=False,
    )
    return pipeline, 32


def lcm() -> tuple[Any, int]:
    pipeline = diffusers.LatentConsistencyModelPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(time_cond_proj_dim=16),
        scheduler=diffusers.LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, 32


def turbo() -> tuple[Any, int]:
    pipeline = _stable_diffusion()
    pipeline.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    return pipeline, 32


def controlnet() -> tuple[Any, int]:
    net = diffusers.ControlNetModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(4, 8),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    parts = _stable_diffusion().components
    return _Controlled(**parts, controlnet=net, requires_safety_checker=False), 32


class _Controlled(diffusers.StableDiffusionControlNetPipeline):  # type: ignore[misc]
    """Of a folder that has its ControlNet in it: brings its own picture, another for each seed, as a spec's controls
    are those beside a model."""

    @functools.wraps(diffusers.StableDiffusionControlNetPipeline.__call__)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seed = kwargs["generator"][0].initial_seed()
        control = torch.rand(1, 3, kwargs["height"], kwargs["width"], generator=torch.Generator().manual_seed(seed))
        return super().__call__(*args, image=control, **kwargs)


# Rows whose models have ControlNets beside them, a and b.
CONTROLLED = {"SD 1.x, ControlNets": "SD 1.x", "SDXL, ControlNets": "SDXL"}

ROWS: Rows = {
    "SD 1.x": ("stable-diffusion", sd1),
    "SD 2.x": ("stable-diffusion", sd2),
    "SD inpainting": ("stable-diffusion-inpainting", sd_inpainting),
    "SDXL": ("stable-diffusion-xl", sdxl),
    "LCM": ("lcm", lcm),
    "SD turbo": ("stable-diffusion", turbo),
    "SD ControlNet": ("stable-diffusion", controlnet),
    "SD 1.x, ControlNets": ("stable-diffusion", sd1),
    "SDXL, ControlNets": ("stable-diffusion-xl", sdxl),
}
