"""Aliases: the names under which other image servers and their clients know our fields.

Knows names only. Where one name means two things to two servers (``scale``, ``image_strength``), it is none of ours.
docs/generate.py writes the table into docs/api.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from server.api.wire import ImageFields

MAX_NAME = 64  # characters of a name that is looked up, or told

# AUTOMATIC1111 and SD.Next, stable-diffusion.cpp, LocalAI, InvokeAI, ComfyUI's bridges, diffusers, Together, fal,
# Replicate, Stability, Gemini and Imagen, SiliconFlow, Runware, Bedrock, Cloudflare.
ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "prompt": ("positive_prompt", "text_prompt"),
    "model": ("model_id", "model_name"),
    "image": (
        "image_url", "image_urls", "image_base64", "image_b64", "image_input", "input_image", "input_images",
        "input_image_url", "init_image", "init_images", "init_image_url", "source_image", "source_images", "seed_image",
        "reference_image", "reference_images", "reference_image_url", "reference_image_urls", "ref_image", "ref_images",
    ),
    "mask": (
        "masks", "mask_image", "mask_images", "mask_url", "mask_urls", "mask_image_url", "mask_base64", "mask_b64",
        "mask_data", "inpaint_mask", "inpainting_mask",
    ),
    "n": (
        "num_images", "num_images_per_prompt", "number_of_images", "num_outputs", "num_samples", "n_samples", "samples",
        "sample_count", "image_count", "image_num", "image_number", "number_results",
    ),
    "size": ("image_size", "output_size", "dimensions"),
    "aspect_ratio": ("ratio",),
    "output_format": ("image_format", "file_format", "output_mime_type"),
    "output_compression": ("output_quality", "jpeg_quality", "output_compression_quality"),
    "seed": ("noise_seed", "random_seed"),
    "negative_prompt": ("negative", "neg_prompt", "negative_text"),
    "num_inference_steps": (
        "steps", "step", "num_steps", "inference_steps", "sampling_steps", "sample_steps", "num_sampling_steps",
        "diffusion_steps", "ddim_steps",
    ),
    "guidance_scale": ("cfg_scale", "cfg", "guidance", "guidance_strength"),
    "strength": ("denoising_strength", "denoise_strength", "denoise", "prompt_strength", "img2img_strength"),
    "scheduler": ("sampler", "sampler_name", "sampler_index", "sample_method", "sampling_method", "scheduler_name"),
    "loras": ("lora",),
    "controls": ("controlnet", "controlnets", "control_nets"),
}  # fmt: skip

# What stands for one of our fields only together: width × height is the size, batch_size × n_iter is n.
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "width": ("image_width", "output_width"),
    "height": ("image_height", "output_height"),
    "batch_size": (),
    "n_iter": ("batch_count", "num_batches"),
}

# Fields that mean nothing here and could not change a picture: never told as ignored.
HARMLESS: Final = frozenset({"user", "moderation"})

_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)*", re.ASCII)


def _key(name: str) -> str:
    """Alike for every way to write a name: cfg_scale, cfgScale, CFGScale, cfg-scale."""
    return name.replace("_", "").replace("-", "").lower()


def _names() -> Iterable[tuple[str, str]]:
    for field in (*ImageFields.model_fields, "images", *HARMLESS):
        yield field, field
    for field, others in (*ALIASES.items(), *PARTS.items()):
        yield from ((name, field) for name in (field, *others))


_FIELDS: Final = {_key(name): field for name, field in _names()}


def field_of(name: str) -> str | None:
    """The field, or part of one, that a client means by ``name``; None if we know none."""
    if len(name) > MAX_NAME or not _WORDS.fullmatch(name):
        return None
    return _FIELDS.get(_key(name))
