"""Specs: checked fields and their model → one ImageSpec, with every choice made.

Knows presets, sizes and limits; knows neither HTTP nor queues. The order of precedence: what the fields say,
then its style, then its quality, then the model's family.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.facts import prompt_weights, schedulers, spacing, step_cache
from pipelines.facts.presets import STYLES, Preset
from pipelines.spec import Adapter, Control, Encoding, ImageSpec, Pixels, Task, Window
from server.api import control_fields
from server.api.wire import ImageFields, is_of_shape, sides_of
from server.catalog import controls
from server.catalog.catalog import Model
from server.catalog.entries import parse_size
from server.errors import BadRequest
from server.settings import Settings

# 32 bits: what other tools' seed fields take, and exact in every client's numbers.
_RANDOM_SEED_BITS = 32
# What input_fidelity stands for. A mask already keeps what it does not cover, so within it more may change.
_FAITHFUL_STRENGTH = 0.5
_MASKED_STRENGTHS = {"low": 1.0, "high": 0.8}
_MIN_SIDE = 16
_SIDE_STEP = 8  # pixels: the sides of a size that only a shape asks for are divisible by it


@dataclass(frozen=True)
class Sources:
    """Decoded input pictures, and a mask of the first one's size where one came."""

    images: tuple[Pixels, ...] = ()
    mask: Pixels | None = None
    kept: Pixels | None = None  # of the first one's size: what is shown where the mask is 0, if not that itself
    window: Window | None = None  # of kept, which is then of the picture's size: what the first one is of it
    drawn_for: tuple[int, int] | None = None  # pixels: what is drawn is of this size, not the picture's
    controls: tuple[Pixels, ...] = ()  # what ControlNets steer by, of the size of the sources

    @property
    def size_bytes(self) -> int:
        return sum(
            len(pixels.data) for pixels in (*self.images, self.mask, self.kept, *self.controls) if pixels is not None
        )


def check(fields: ImageFields, model: Model, *, images: int, mask: bool) -> None:
    """Refuse what this model cannot do, before anything is fetched or decoded. Raises BadRequest."""
    _check_prompts(fields, model)
    if fields.aspect_ratio is not None:
        _size_of_shape(fields.aspect_ratio, model)
    if fields.size not in (None, "auto"):
        model.size(fields.size or "")
    if fields.num_inference_steps and fields.num_inference_steps > model.entry.max_steps:
        raise BadRequest(f"num_inference_steps must be at most {model.entry.max_steps}.", param="num_inference_steps")
    if fields.scheduler is not None and fields.scheduler not in model.scheduler_names:
        allowed = ", ".join(model.scheduler_names)
        raise BadRequest(f"scheduler must be one of {allowed}.", param="scheduler")
    _check_loras(fields, model)
    _check_controls(fields, model)
    _check_background(fields, model)
    _check_task(model, images=images, mask=mask)


def _check_prompts(fields: ImageFields, model: Model) -> None:
    check_prompt("prompt", fields.prompt, model)
    check_prompt("negative_prompt", fields.negative_prompt or "", model)
    with_preset = _prompt(fields, model, model.preset(fields.quality, fields.style))
    if with_preset != fields.prompt:
        _check_weights("prompt", with_preset, model)


def check_prompt(name: str, text: str, model: Model) -> None:
    """Refuse a prompt in the field ``name`` that this model does not take. Raises BadRequest."""
    if len(text) > model.entry.max_prompt:
        raise BadRequest(f"{name} is longer than {model.entry.max_prompt} characters.", param=name)
    _check_weights(name, text, model)


def _check_weights(name: str, text: str, model: Model) -> None:
    if not model.entry.prompt_weights:
        return
    try:
        prompt_weights.parse(text)
    except prompt_weights.TooHeavy as error:
        raise BadRequest(f"{name} {error}.", param=name) from None


def _check_loras(fields: ImageFields, model: Model) -> None:
    names = [lora.name for lora in fields.loras]
    if names and not model.entry.loras:
        raise BadRequest(f"{model.id} has no loras.", param="loras")
    if any(name not in model.entry.loras for name in names):
        raise BadRequest(f"loras must be some of those of {model.id}: {', '.join(model.entry.loras)}.", param="loras")
    if len(set(names)) < len(names):
        raise BadRequest("loras must not name one twice.", param="loras")


def _check_controls(fields: ImageFields, model: Model) -> None:
    if not fields.controls:
        return
    known = model.control_names
    if not known:
        why = ": its " + controls.of_family(model.family) if not controls.takes_any(model.family) else ""
        helps = "" if why else "; whoever runs the server can give it some: controlnets in models.yaml"
        raise BadRequest(f"{model.id} has no controls{why}{helps}.", param=control_fields.FIELD)
    for number, control in enumerate(fields.controls):
        if control.name not in known:
            place = control_fields.param(number, "name")
            raise BadRequest(f"{place} must be one of the controls of {model.id}: {', '.join(known)}.", param=place)


def _check_background(fields: ImageFields, model: Model) -> None:
    if fields.background != "transparent":
        return
    if model.entry.matting is None:
        raise BadRequest(
            f"{model.id} draws no transparent background; send auto or opaque, or a model whose backgrounds in"
            " /v1/models name transparent. Whoever runs the server can give it one: matting in models.yaml.",
            param="background",
        )
    if fields.output_format == "jpeg":
        raise BadRequest("background transparent needs output_format png or webp; jpeg has none.", param="background")


def _check_task(model: Model, *, images: int, mask: bool) -> None:
    if mask and not images:
        raise BadRequest("mask needs an image that it belongs to.", param="image")
    task = Task.INPAINTING if mask else Task.IMAGE_TO_IMAGE if images else Task.TEXT_TO_IMAGE
    if task not in model.family.tasks:
        needed = {Task.TEXT_TO_IMAGE: "needs an image to edit", Task.INPAINTING: "cannot work with a mask"}
        raise BadRequest(f"{model.id} {needed.get(task, 'cannot edit pictures')}.", param="mask" if mask else "image")
    if images > model.family.references:
        limit = model.family.references
        allowed = "one picture" if limit == 1 else f"at most {limit} pictures"
        raise BadRequest(f"{model.id} edits {allowed} at a time.", param="image")


def target_size(fields: ImageFields, model: Model, first: Pixels | None) -> tuple[int, int]:
    """The pixels of the finished picture. ``auto`` on an edit keeps the source's size, within the model's limit."""
    if fields.aspect_ratio is not None:
        return _size_of_shape(fields.aspect_ratio, model)
    if fields.size == "auto" and first is not None and model.entry.sizes == "any":
        scale = min(1.0, model.entry.max_side / max(first.width, first.height))
        return max(_MIN_SIDE, round(first.width * scale)), max(_MIN_SIDE, round(first.height * scale))
    if fields.size in (None, "auto"):
        return model.size(model.entry.default_size)
    return model.size(fields.size or "")


def _size_of_shape(ratio: str, model: Model) -> tuple[int, int]:
    """Of this shape: the model's default or largest size, or where it makes any, one of its default's area."""
    across, down = sides_of(ratio)
    width, height = parse_size(model.entry.default_size)
    if model.entry.sizes != "any":
        sizes = (parse_size(text) for text in model.entry.sizes)
        fitting = [size for size in sizes if is_of_shape(*size, ratio)]
        if not fitting:
            raise BadRequest(
                f"aspect_ratio is of none of the sizes that {model.id} makes: {model.sizes}.", param="aspect_ratio"
            )
        return (width, height) if (width, height) in fitting else max(fitting, key=math.prod)
    scale = (width * height / (across * down)) ** 0.5
    scale = min(scale, model.entry.max_side / max(across, down))
    sides = tuple(round(side * scale / _SIDE_STEP) * _SIDE_STEP for side in (across, down))
    if min(sides) < _MIN_SIDE:
        raise BadRequest(f"aspect_ratio is too narrow for {model.id}.", param="aspect_ratio")
    return min(sides[0], model.entry.max_side), min(sides[1], model.entry.max_side)


def unused(fields: ImageFields, model: Model, *, edit: bool, mask: bool = False) -> tuple[str, ...]:
    """The fields that mean nothing to this model, or nothing in this request."""
    preset = model.preset(fields.quality, fields.style)
    found: list[str] = []
    if not edit or model.family.by_instruction:
        found += ["strength", "input_fidelity"]
    elif fields.strength is not None:
        found.append("input_fidelity")
    if _guidance(fields, model, preset) <= model.family.negative_above:
        found.append("negative_prompt")
    if fields.style != STYLES[0] and preset == model.preset(fields.quality, STYLES[0]):  # it has no styles
        found.append("style")
    strength = _strength(fields, model, mask=mask) if edit and not model.family.by_instruction else None
    placed = _spacing(fields, model, preset, _steps(fields, model, preset), strength)
    if fields.spacing == spacing.DENSE_START != placed:
        found.append("spacing")
    if fields.step_cache and not _step_cache(fields, model, preset, _steps(fields, model, preset), strength):
        found.append("step_cache")
    return tuple(found)


def make_spec(
    fields: ImageFields, model: Model, size: tuple[int, int], sources: Sources, *, varied: bool = False
) -> ImageSpec:
    """The spec of every picture of a request. Raises BadRequest.

    ``varied``: the strength in ``fields`` is a variation's, which no client sent.
    """
    preset = model.preset(fields.quality, fields.style)
    draw_width, draw_height = model.area.size_for(*(sources.drawn_for or size))
    shown = size if sources.window is None else (sources.window.width, sources.window.height)
    is_enlarged = max(shown[0] / draw_width, shown[1] / draw_height) > 1
    strength = _strength(fields, model, mask=sources.mask is not None)
    steps = _steps(fields, model, preset)
    if varied and not model.family.by_instruction:
        steps = _varied_steps(fields, model, steps, strength)
        strength = strength if int(steps * strength) else min(1.0, 1 / steps + 1e-9)  # where max_steps allows no more
    scheduler = fields.scheduler or preset.scheduler
    _check_lcm(steps, scheduler, strength if sources.images else 1.0, model)
    # An edit draws the last strength × steps of its steps; a pipeline with none left fails.
    if sources.images and not model.family.by_instruction and int(steps * strength) < 1:
        if fields.strength is not None:
            raise BadRequest(f"strength must be at least 1/{steps} to leave one of {steps} steps.", param="strength")
        strength = 1.0  # ours is 0.5 or more, so that steps is 1: it is drawn
    redrawn = strength if sources.images and not model.family.by_instruction else None
    return ImageSpec(
        model=model.id,
        prompt=_prompt(fields, model, preset),
        width=size[0],
        height=size[1],
        draw_width=draw_width,
        draw_height=draw_height,
        steps=steps,
        guidance=_guidance(fields, model, preset),
        negative_prompt=fields.negative_prompt if fields.negative_prompt is not None else preset.negative_prompt,
        prompt_weights=model.entry.prompt_weights,
        scheduler=scheduler,
        spacing=_spacing(fields, model, preset, steps, redrawn),
        step_cache=_step_cache(fields, model, preset, steps, redrawn),
        strength=strength,
        sources=sources.images,
        mask=sources.mask,
        adapters=_adapters(fields, model),
        controls=_controls(fields, sources),
        kept=sources.kept,
        window=sources.window,
        matting=model.entry.matting if fields.background == "transparent" else None,
        upscaler=model.upscaler.name if model.upscaler is not None and is_enlarged else None,
    )


def _steps(fields: ImageFields, model: Model, preset: Preset) -> int:
    return fields.num_inference_steps or preset.steps or min(model.family.steps, model.entry.max_steps)


def _strength(fields: ImageFields, model: Model, *, mask: bool) -> float:
    fidelity = fields.input_fidelity or "low"
    if mask:
        return _first(fields.strength, None, _MASKED_STRENGTHS[fidelity])
    return _first(fields.strength, None, _FAITHFUL_STRENGTH if fidelity == "high" else model.entry.edit_strength)


def _spacing(fields: ImageFields, model: Model, preset: Preset, steps: int, strength: float | None) -> spacing.Spacing:
    """A dense start where one is asked for and there is anything to choose. ``strength`` is an edit's."""
    if (fields.spacing or preset.spacing) != spacing.DENSE_START:
        return "default"
    if spacing.steps_drawn(steps, strength) < spacing.MIN_DENSE_STEPS:
        return "default"
    sampler = drawn_with(fields, model, preset)
    if sampler is not None and not spacing.takes_dense_start(*sampler):
        return "default"
    return spacing.DENSE_START


def _step_cache(fields: ImageFields, model: Model, preset: Preset, steps: int, strength: float | None) -> float:
    """How many steps are told from others, where any can be; ``strength`` is an edit's. Raises BadRequest where it is
    asked for and the scheduler can leave out none."""
    amount = (fields.step_cache if fields.step_cache is not None else preset.step_cache) or 0.0
    sampler = drawn_with(fields, model, preset)
    if not amount or sampler is None:
        return amount
    problem = step_cache.problem(sampler[0])
    if problem is not None and fields.step_cache:
        raise BadRequest(f"step_cache means nothing here: {problem}. Leave it out.", param="step_cache")
    drawn = spacing.steps_drawn(steps, strength)
    return amount if step_cache.rule(*sampler, drawn, amount) is not None else 0.0


def drawn_with(fields: ImageFields, model: Model, preset: Preset) -> tuple[str, Mapping[str, Any]] | None:
    """The class and the configuration of the scheduler; None where that cannot be told."""
    name = fields.scheduler or preset.scheduler
    if len(model.scheduler_names) == 1:
        (name,) = model.scheduler_names
    return model.own_scheduler if name is None else schedulers.lookup(name)


def _varied_steps(fields: ImageFields, model: Model, steps: int, strength: float) -> int:
    """As many steps as leave one to draw, or as ``max_steps`` allows. Raises BadRequest where fewer were asked for."""
    fewest = min(math.ceil(1 / strength), model.entry.max_steps)
    if fields.num_inference_steps is not None and steps < fewest:
        raise BadRequest(
            f"num_inference_steps must be at least {fewest} to vary a picture, or send a strength of 1.",
            param="num_inference_steps",
        )
    return max(steps, fewest)


def _guidance(fields: ImageFields, model: Model, preset: Preset) -> float:
    return _first(fields.guidance_scale, preset.guidance, model.family.guidance)


def most_lcm_steps(scheduler: str | None, strength: float, model: Model) -> int | None:
    """As many steps as LCM draws at this strength, which is 1 where nothing is edited; None where something else draws.
    LCM's own pipelines choose an edit's steps from the last strength × as many; the others do not tell it."""
    own = model.family.name == "lcm"
    if scheduler != "lcm" and not own:
        return None
    return int(schedulers.MAX_LCM_STEPS * (strength if own else 1))


def _check_lcm(steps: int, scheduler: str | None, strength: float, model: Model) -> None:
    most = most_lcm_steps(scheduler, strength, model)
    if most is not None and steps > most:
        of = f" at strength {strength:g}" if model.family.name == "lcm" and strength < 1 else ""
        raise BadRequest(
            f"scheduler lcm draws in at most {most} steps{of}; these would be {steps}.", param="num_inference_steps"
        )


def _adapters(fields: ImageFields, model: Model) -> tuple[Adapter, ...]:
    """In one order, and without those that change nothing: requests for the same are equal."""
    weights = {
        lora.name: model.entry.loras[lora.name].weight if lora.weight is None else lora.weight for lora in fields.loras
    }
    return tuple(Adapter(name, weight) for name, weight in sorted(weights.items()) if weight != 0)


def _controls(fields: ImageFields, sources: Sources) -> tuple[Control, ...]:
    """Without those that change nothing: a request with a weight of 0 is drawn as one without."""
    return tuple(
        Control(each.name, image, each.weight, each.start, each.end, each.preprocess)
        for each, image in zip(fields.controls, sources.controls, strict=True)
        if each.weight != 0
    )


def _prompt(fields: ImageFields, model: Model, preset: Preset) -> str:
    """What is drawn; with a ground that can be cut away where it will be, unless the client speaks of one."""
    ground = ""
    if fields.background == "transparent" and "background" not in fields.prompt.lower():
        ground = model.entry.matting_prompt
    return fields.prompt + ground + (preset.prompt_suffix or "")


def make_seeds(fields: ImageFields) -> tuple[int, ...]:
    """One seed a picture: the request's and those that follow it, or as many random ones."""
    if fields.seed is None:
        return tuple(secrets.randbits(_RANDOM_SEED_BITS) for _ in range(fields.n))
    return tuple((fields.seed + offset) % 2**63 for offset in range(fields.n))


def make_encoding(fields: ImageFields, settings: Settings) -> Encoding:
    """What is written beside the pixels is the owner's to say, not the request's."""
    return Encoding(
        fields.output_format, fields.output_compression, settings.picture_metadata, provenance=settings.provenance
    )


def _first(asked: float | None, preset: float | None, default: float) -> float:
    return asked if asked is not None else preset if preset is not None else default
