"""From a spec to the keyword arguments of one ordinary pipeline call.

Knows which argument of which family carries what; asks the pipeline's own signature what it takes, so that
a pipeline class nobody listed works too. Knows no runs, threads or HTTP.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from pipelines.facts.families import Family
from pipelines.pictures.edges import canny
from pipelines.pictures.fitting import to_pil
from pipelines.pictures.repaint import whole_cells
from pipelines.spec import Control, ImageSpec, Pixels, Task

_CELL = 8  # pixels a latent, where a pipeline does not say
_MIN_SIDE = 64  # pixels of a reference: FLUX.2 refuses a smaller one
# What pipelines would do with sizes by themselves: draw in one of the sizes they were trained on and resample, or
# scale the sources up to them. The size to draw is already chosen when a spec is made.
_SIZES_ARE_CHOSEN = {"use_resolution_binning": False, "_auto_resize": False}


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
        "max_area": spec.draw_width * spec.draw_height,  # FLUX.1 Kontext scales width and height to it
        **_SIZES_ARE_CHOSEN,
    }
    if spec.negative_prompt is not None:
        wanted["negative_prompt"] = spec.negative_prompt
    elif family.guidance_argument == "true_cfg_scale" and spec.guidance > 1:
        wanted["negative_prompt"] = " "  # Qwen-Image ignores its guidance without one
    if spec.controls:
        wanted |= _control_arguments(spec, "control_image" if "control_image" in takes else "image")
    if spec.sources:
        wanted |= _source_arguments(family, spec, getattr(pipeline, "vae_scale_factor", _CELL))
    return {name: value for name, value in wanted.items() if name in takes}


def _control_arguments(spec: ImageSpec, name: str) -> dict[str, Any]:
    """Lists, of one item too: a view has several ControlNets always, if only one."""
    return {
        name: [_steering(control, spec) for control in spec.controls],
        "controlnet_conditioning_scale": [control.weight for control in spec.controls],
        "control_guidance_start": [control.start for control in spec.controls],
        "control_guidance_end": [control.end for control in spec.controls],
    }


def _steering(control: Control, spec: ImageSpec) -> Image.Image:
    image = _at_draw_size(control.image, spec)
    return canny(image) if control.preprocess == "canny" else image


def _source_arguments(family: Family, spec: ImageSpec, cell: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {"strength": spec.strength}
    if family.by_instruction:
        sources = [_within_draw_area(source, spec, family.multiple) for source in spec.sources]
        arguments["image"] = sources if family.references > 1 else sources[0]
    else:
        arguments["image"] = _at_draw_size(spec.sources[0], spec)
    if spec.task is Task.INPAINTING and spec.mask is not None:
        width, height = arguments["image"].size
        arguments["mask_image"] = whole_cells(to_pil(spec.mask), width, height, cell)
    return arguments


def _within_draw_area(pixels: Pixels, spec: ImageSpec, multiple: int) -> Image.Image:
    """A reference in its own aspect, no larger than the picture to draw: what it costs grows with its area."""
    scale = min(1.0, math.sqrt(spec.draw_width * spec.draw_height / (pixels.width * pixels.height)))
    sides = (round(side * scale / multiple) * multiple for side in (pixels.width, pixels.height))
    width, height = (max(_MIN_SIDE, side) for side in sides)
    image = to_pil(pixels)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def _at_draw_size(pixels: Pixels, spec: ImageSpec) -> Image.Image:
    size = (spec.draw_width, spec.draw_height)
    image = to_pil(pixels)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
