"""From a spec to the keyword arguments of one ordinary pipeline call.

Knows which argument of which family carries what; asks the pipeline's own signature what it takes, so that
a pipeline class nobody listed works too. Knows no runs, threads or HTTP.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from pipelines.families import Family
from pipelines.fitting import to_pil
from pipelines.spec import ImageSpec, Pixels, Task


def call_arguments(pipeline: Any, family: Family, spec: ImageSpec, seeds: Sequence[int]) -> dict[str, Any]:
    """The arguments with which ``pipeline`` draws ``spec`` once for each of ``seeds``, as one batch.

    The pictures come back as a float tensor (len(seeds), 3, draw_height, draw_width), 0..1.
    """
    takes = inspect.signature(type(pipeline).__call__).parameters
    wanted: dict[str, Any] = {
        "prompt": spec.prompt,
        "num_images_per_prompt": len(seeds),
        "num_inference_steps": spec.steps,
        "width": spec.draw_width,
        "height": spec.draw_height,
        "output_type": "pt",
        # One generator a picture, on the CPU: a seed means the same picture at any n and on any device.
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        family.guidance_argument: spec.guidance,
    }
    if spec.negative_prompt is not None:
        wanted["negative_prompt"] = spec.negative_prompt
    elif family.guidance_argument == "true_cfg_scale" and spec.guidance > 1:
        wanted["negative_prompt"] = " "  # Qwen-Image ignores its guidance without one
    if spec.sources:
        wanted |= _source_arguments(family, spec)
    return {name: value for name, value in wanted.items() if name in takes}


def _source_arguments(family: Family, spec: ImageSpec) -> dict[str, Any]:
    sources = [to_pil(source) for source in spec.sources]
    if family.by_instruction:
        arguments: dict[str, Any] = {"image": sources if family.references > 1 else sources[0]}
    else:
        arguments = {"image": _at_draw_size(spec.sources[0], spec), "strength": spec.strength}
    if spec.task is Task.INPAINTING and spec.mask is not None:
        arguments["mask_image"] = _at_draw_size(spec.mask, spec)
    return arguments


def _at_draw_size(pixels: Pixels, spec: ImageSpec) -> Image.Image:
    size = (spec.draw_width, spec.draw_height)
    image = to_pil(pixels)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
