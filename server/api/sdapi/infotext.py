"""Infotext and ``info``: what an answer says of its pictures, as AUTOMATIC1111 writes it.

Knows A1111's names and their order; knows what was asked for, and the seeds. The text of each picture is written into
its PNG as well, under ``parameters``, where A1111's tools look for it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any, Final

from pipelines.spec import Task
from server import __version__
from server.api.sdapi import controlnet, models
from server.api.sdapi.translation import A1111Submission

_RESIZED: Final = {1: "Crop and resize", 2: "Resize and fill", 3: "Just resize (latent upscale)"}
_QUOTED: Final = frozenset(",:\n")


def infotext(submission: A1111Submission, seed: int) -> str:
    """The text of one picture: its prompt, a line of what to keep out of it, and a line of pairs."""
    fields = submission.asked.fields
    lines = [fields.prompt]
    if fields.negative_prompt:
        lines.append(f"Negative prompt: {fields.negative_prompt}")
    pairs = (f"{name}: {_quoted(value)}" for name, value in _pairs(submission, seed).items() if value is not None)
    return "\n".join((*lines, ", ".join(pairs)))


def info(submission: A1111Submission, seeds: Sequence[int], created: int) -> str:
    """The ``info`` of an answer, JSON as a text: every key that strict clients want. ``created``: unix seconds."""
    asked, ours = submission.asked, submission.fields
    fields, n = asked.fields, len(seeds)
    return json.dumps(
        {
            "prompt": fields.prompt,
            "all_prompts": [fields.prompt] * n,
            "negative_prompt": fields.negative_prompt,
            "all_negative_prompts": [fields.negative_prompt] * n,
            "seed": seeds[0] if seeds else -1,
            "all_seeds": list(seeds),
            "subseed": fields.subseed,
            "all_subseeds": [fields.subseed] * n,
            "subseed_strength": 0.0,
            "width": fields.width,
            "height": fields.height,
            "sampler_name": asked.sampling.label,
            "cfg_scale": _guidance(submission),
            "steps": ours.num_inference_steps,
            "batch_size": fields.batch_size,
            "restore_faces": False,
            "face_restoration_model": None,
            "sd_model_name": models.title(asked.model),
            "sd_model_hash": "",
            "sd_vae_name": None,
            "sd_vae_hash": None,
            "seed_resize_from_w": -1,
            "seed_resize_from_h": -1,
            "denoising_strength": _strength(submission),
            "extra_generation_params": _extra(submission),
            "index_of_first_image": 0,
            "infotexts": [infotext(submission, seed) for seed in seeds],
            "styles": [],
            "job_timestamp": timestamp(created),
            "clip_skip": 1,
            "is_using_inpainting_conditioning": asked.model.family.tasks == {Task.INPAINTING},
            "version": _version(),
        },
        ensure_ascii=False,
    )


def timestamp(seconds: float) -> str:
    """Unix seconds as A1111 writes a time: YYYYMMDDhhmmss, of this machine's clock."""
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def _pairs(submission: A1111Submission, seed: int) -> dict[str, Any]:
    asked, ours = submission.asked, submission.fields
    fields = asked.fields
    is_distilled = math.isinf(asked.model.family.negative_above) and asked.model.family.flow
    return {
        "Steps": ours.num_inference_steps,
        "Sampler": asked.sampling.label,
        "Schedule type": asked.sampling.schedule,
        "CFG scale": 1 if is_distilled else _guidance(submission),
        "Distilled CFG Scale": _guidance(submission) if is_distilled else None,
        "Seed": seed,
        "Size": f"{fields.width}x{fields.height}",
        "Model": models.title(asked.model),
        "Denoising strength": _strength(submission),
        **_extra(submission),
        "Version": _version(),
    }


def _extra(submission: A1111Submission) -> dict[str, Any]:
    """What only some pictures have: a second pass, a mask, ControlNets."""
    asked, said = submission.asked, {}
    fields = asked.fields
    if asked.hires is not None:
        said["Hires resize"] = f"{asked.hires.size[0]}x{asked.hires.size[1]}"
        said["Hires steps"] = str(asked.hires.steps)
        said["Hires upscaler"] = asked.hires.upscaler
    if asked.manner is not None and submission.fields.mask is not None:
        blur = fields.blur
        said["Mask blur"] = str(blur[0]) if blur[0] == blur[1] else f"{blur[0]}x{blur[1]}"
        if fields.inpaint_full_res:
            said["Inpaint area"] = "Only masked"
            said["Masked area padding"] = str(fields.inpaint_full_res_padding)
    if asked.manner is not None and fields.resize_mode in _RESIZED:
        said["Resize mode"] = _RESIZED[fields.resize_mode]
    return said | controlnet.infotexts(submission.fields.controls)


def _guidance(submission: A1111Submission) -> float:
    guidance = submission.fields.guidance_scale
    if guidance is None:
        model = submission.asked.model
        preset = model.preset("standard", "natural").guidance
        guidance = model.family.guidance if preset is None else preset
    return guidance


def _strength(submission: A1111Submission) -> float | None:
    hires = submission.asked.hires
    if hires is not None:
        return round(hires.strength, 4)
    return None if submission.fields.strength is None else round(submission.fields.strength, 4)


def _version() -> str:
    return f"Darkroom {__version__}"


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if _QUOTED & set(text) else text
