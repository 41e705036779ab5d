"""The translation: fields of AUTOMATIC1111's API and their model → a submission like any other.

Knows both vocabularies and what a model takes; knows neither pixels nor the queue. What a client leaves out is the
model's own where A1111's default would do harm: steps and guidance of a distilled model.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pipelines.facts import prompt_weights, schedulers
from pipelines.spec import Task
from server.api import specs
from server.api.reader import Reading
from server.api.sdapi import controlnet, models, prompts, samplers
from server.api.sdapi.fields import UNSAID, A1111Fields
from server.api.sdapi.ignored import plain_names
from server.api.sdapi.painting import NOISE, ZEROS, Manner
from server.api.sdapi.silent import require_no_script, silent_fields
from server.api.submission import Submission
from server.api.wire import ImageFields, check_fields
from server.catalog.catalog import Model
from server.catalog.entries import MIN_SIDE
from server.errors import BadRequest

_SEEDS: Final = 2**32 - 1  # of random ones; A1111's are 0 to this less one
_STRENGTH: Final = 0.75  # of an edit
_HIRES_STRENGTH: Final = 0.7
_MAX_STRENGTH: Final = 0.999  # of which whole steps are taken, as A1111 does
_SIDE_STEP: Final = 8  # pixels
_UNNAMED: Final = frozenset({"", "automatic", "none", "default"})
_PLAIN_UPSCALERS: Final = frozenset({"", "none", "lanczos", "nearest"})
# Our fields, by the names that these clients know; what a refusal names.
_NAMES: Final = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "size": "width",
    "n": "batch_size",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "scheduler": "sampler_name",
    "seed": "seed",
    "loras": "prompt",
}
_EDIT_NAMES: Final = {"image": "init_images", "mask": "mask", "strength": "denoising_strength"}


@dataclass(frozen=True)
class Sampling:
    """How a pass samples."""

    label: str  # A1111's name of the sampler
    schedule: str  # A1111's label of the schedule type
    scheduler: str | None  # ours; None: the model's own
    sigmas: str  # a name of pipelines.facts.schedulers.SIGMAS, or default


@dataclass(frozen=True)
class Hires:
    """The second pass of a picture, which makes it larger."""

    size: tuple[int, int]  # pixels
    strength: float
    steps: int
    sampling: Sampling
    upscaler: str
    prompt: str | None  # None: the first pass's
    negative_prompt: str | None
    network: str | None = None  # that enlarges in between, by name; None: resampling

    @property
    def nearest(self) -> bool:
        return self.upscaler.strip().lower() == "nearest"


@dataclass(frozen=True)
class Request:
    """What A1111's fields say that ours have no words for."""

    fields: A1111Fields
    model: Model  # with the sizes that its weights draw, and prompts weighted where it can
    seeds: tuple[int, ...]
    sampling: Sampling
    manner: Manner | None = None  # of an edit
    hires: Hires | None = None


@dataclass(frozen=True)
class A1111Submission(Submission):
    """A submission of these routes."""

    asked: Request = field(kw_only=True)

    @property
    def needs_prompt(self) -> bool:
        return False

    @property
    def own(self) -> str:
        said = self.asked.fields.model_dump_json(exclude={"seed", *UNSAID})
        return f"{said} {self.asked.hires}"

    def served_by(self, model: Model) -> Model:
        return self.asked.model


class OpenModels:
    """Models as these routes have them: of any size that their weights draw, without styles, and with weighted prompts
    where their family has them. One server's; each is made once."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Model, Model]] = {}  # by ID: models.yaml's, ours

    def of(self, model: Model) -> Model:
        known = self._made.get(model.id)
        if known is None or known[0] is not model:
            weighted = model.family.name in prompt_weights.FAMILIES
            entry = model.entry.model_copy(update={"sizes": "any", "style": {}, "prompt_weights": weighted})
            known = self._made[model.id] = model, replace(model, entry=entry)
        return known[1]


def translate(fields: A1111Fields, model: Model, *, edit: bool, networks: Collection[str] = ()) -> A1111Submission:
    """The submission that these fields make of ``model``, one of ``OpenModels``; ``networks`` are the upscalers of
    models.yaml. Raises BadRequest, which names the client's own field."""
    require_no_script(fields)
    fields = _sized(fields, model)
    ignored = list(silent_fields(fields, edit=edit))
    prompt = prompts.read(fields.prompt)
    loras, unknown = prompts.named({**prompts.from_field(fields.lora), **prompt.loras}, model.entry.loras)
    units = controlnet.read_units(fields, model, edit=edit)
    ignored += units.ignored
    ignored += [f"lora.{name}" for name in unknown] + list(prompt.ignored)
    values: dict[str, Any] = {
        "model": model.id,
        "prompt": "none",  # ours must have one; theirs need not
        "n": fields.n,
        "size": f"{_side(fields.width, model, 'width')}x{_side(fields.height, model, 'height')}",
        "guidance_scale": _guidance(fields, model),
        "loras": [{"name": name, "weight": weight} for name, weight in loras.items()],
        "controls": units.controls,
        "response_format": "b64_json",
        "style": "natural",
    }
    if fields.seed >= 0:
        values["seed"] = fields.seed
    if negative := _said(prompts.read(fields.negative_prompt).text, model):
        values["negative_prompt"] = negative
    sampling, unused = _sampling(
        fields.sampler_name or fields.sampler_index, fields.scheduler, model, ("sampler_name", "scheduler")
    )
    ignored += unused
    steps = _steps(fields.steps, model, sampling.scheduler, _edit_strength(fields) if edit else None)
    values |= {"scheduler": sampling.scheduler, "num_inference_steps": steps}
    manner = None
    if edit:
        values |= _edit_values(fields, model, steps, ignored)
        manner = _manner(fields, model)
    elif fields.extra_images:
        ignored.append("extra_images")
    named = {**_NAMES, **_EDIT_NAMES} if edit else _NAMES
    names = {ours: theirs for ours, theirs in named.items() if values.get(ours) is not None}
    for ours, theirs in (("negative_prompt", fields.negative_prompt), ("strength", fields.denoising_strength)):
        if theirs in ("", None):  # ours is then their default, which nobody sent
            names.pop(ours, None)
    names |= dict(units.names)
    try:
        checked = check_fields(values).model_copy(update={"prompt": _said(prompt.text, model)})
    except BadRequest as error:
        raise Reading(ImageFields(prompt="none"), names=names).named(error) from None
    hires = None if edit else _hires(fields, model, networks, sampling.scheduler, ignored)
    reading = Reading(checked, plain_names(ignored), names)
    first = fields.seed if fields.seed >= 0 else secrets.randbelow(_SEEDS)
    seeds = tuple((first + number) % 2**63 for number in range(fields.n))
    asked = Request(fields, model, seeds, sampling, manner, hires)
    return A1111Submission("img2img" if edit else "txt2img", reading, asked=asked)


def at_least_one(strength: float, steps: int) -> float:
    """``strength``, or as much of it as leaves one step to draw."""
    strength = min(strength, _MAX_STRENGTH)
    return strength if int(steps * strength) else min(1.0, 1 / steps + 1e-9)


def _edit_values(fields: A1111Fields, model: Model, steps: int, ignored: list[str]) -> dict[str, Any]:
    pictures = [text for text in fields.init_images if text.strip()]
    if not pictures:
        raise BadRequest(
            "init_images: Init image not found. Send the picture to edit, as base64 or a data: URL.",
            param="init_images",
            code="missing_field",
        )
    if fields.extra_images and model.family.references > 1:
        pictures += fields.extra_images
    elif fields.extra_images:
        ignored.append("extra_images")
    strength = _edit_strength(fields)
    if not model.family.by_instruction:
        strength = at_least_one(strength, steps)
    values: dict[str, Any] = {"image": pictures, "strength": max(strength, 1e-6)}
    if fields.mask.strip():
        values["mask"] = fields.mask
    return values


def _edit_strength(fields: A1111Fields) -> float:
    if fields.mask.strip() and fields.inpainting_fill in (NOISE, ZEROS):
        return 1.0  # nothing of what is covered is left to be seen
    return _STRENGTH if fields.denoising_strength is None else fields.denoising_strength


def _manner(fields: A1111Fields, model: Model) -> Manner:
    return Manner(
        size=(fields.width, fields.height),
        resize_mode=fields.resize_mode,
        blur=fields.blur,
        is_rounded=fields.mask_round,
        is_inverted=bool(fields.inpainting_mask_invert),
        fill=fields.inpainting_fill,
        only_masked=fields.inpaint_full_res,
        padding=fields.inpaint_full_res_padding,
        max_side=model.entry.max_side,
    )


def _hires(
    fields: A1111Fields, model: Model, networks: Collection[str], first: str | None, ignored: list[str]
) -> Hires | None:
    """The second pass, where one is asked for and the model can draw from a picture. ``first``: the solver of the pass
    before, which draws where the second names none."""
    if not fields.enable_hr:
        return None
    if Task.IMAGE_TO_IMAGE not in model.family.tasks or model.family.by_instruction:
        ignored.append("enable_hr")
        return None
    sampler = fields.hr_sampler_name if fields.hr_sampler_name.strip().lower() not in _SAME else ""
    schedule = fields.hr_scheduler if fields.hr_scheduler.strip().lower() not in _SAME else ""
    sampling, unused = _sampling(
        sampler or fields.sampler_name or fields.sampler_index,
        schedule or fields.scheduler,
        model,
        ("hr_sampler_name", "hr_scheduler"),
    )
    ignored += unused if sampler or schedule else []
    asked = fields.hr_upscaler.strip()
    upscaler = next((name for name in networks if name.lower() == asked.lower()), asked)
    if upscaler.lower() not in _PLAIN_UPSCALERS and upscaler not in networks:
        ignored.append("hr_upscaler")
    strength = _HIRES_STRENGTH if fields.denoising_strength is None else fields.denoising_strength
    steps = _steps(fields.hr_second_pass_steps or fields.steps, model, sampling.scheduler or first, strength)
    prompt, negative = (_said(prompts.read(text).text, model) for text in (fields.hr_prompt, fields.hr_negative_prompt))
    specs.check_prompt("hr_prompt", prompt, model)
    specs.check_prompt("hr_negative_prompt", negative, model)
    return Hires(
        _hires_size(fields, model),
        at_least_one(strength, steps),
        steps,
        sampling,
        upscaler or "Lanczos",
        prompt or None,
        negative or None,
        upscaler if upscaler in networks else None,
    )


_SAME: Final = frozenset({"", "use same sampler", "use same scheduler", "none"})


def _hires_size(fields: A1111Fields, model: Model) -> tuple[int, int]:
    """By ``hr_resize_x`` and ``hr_resize_y`` where one of them is there, else by ``hr_scale``."""
    across, down = fields.hr_resize_x, fields.hr_resize_y
    scale_x, scale_y = across / fields.width, down / fields.height
    if across or down:
        width = across or round(fields.width * scale_y)
        height = down or round(fields.height * scale_x)
        param = "hr_resize_x" if across else "hr_resize_y"
    else:
        sides = (int(side * fields.hr_scale) // _SIDE_STEP * _SIDE_STEP for side in (fields.width, fields.height))
        (width, height), param = sides, "hr_scale"
    if min(width, height) < MIN_SIDE or max(width, height) > model.entry.max_side:
        raise BadRequest(
            f"{param} makes pictures of {width} × {height} pixels; {models.title(model)} makes sides from {MIN_SIDE} to"
            f" {model.entry.max_side}.",
            param=param,
        )
    return width, height


def _sampling(sampler: str, schedule: str, model: Model, params: tuple[str, str]) -> tuple[Sampling, list[str]]:
    """How to sample, and the names of the fields in ``params`` that this model cannot follow."""
    ignored: list[str] = []
    found, behind = samplers.find(sampler)
    solver = None if found is None else found.solver(model.scheduler_names)
    if solver is None and sampler.strip().lower() not in _UNNAMED:
        ignored.append(params[0])
        found = None
    kind = samplers.find_schedule(schedule)
    if kind is None and schedule.strip():
        ignored.append(params[1])
    if kind in (None, samplers.AUTOMATIC):
        kind = behind or samplers.AUTOMATIC
    assert kind is not None
    preset = model.preset("standard", "natural")
    drawn_with = specs.drawn_with(ImageFields(prompt="none", scheduler=solver), model, preset)
    sigmas = kind.sigmas
    if sigmas != "default" and not _takes(model, drawn_with, sigmas):
        ignored.append(params[1])
        kind, sigmas = samplers.AUTOMATIC, "default"
    label = found.name if found is not None else samplers.label(None if drawn_with is None else drawn_with[0])
    return Sampling(label, kind.label, solver, sigmas or "default"), ignored


def _takes(model: Model, drawn_with: tuple[str, Mapping[str, Any]] | None, sigmas: str | None) -> bool:
    """Can what a model is drawn with have its noise levels so?"""
    if sigmas is None or drawn_with is None:
        return False
    class_name, config = drawn_with
    own = model.own_scheduler
    return schedulers.takes_sigmas(class_name, {**({} if own is None else own[1]), **config}, sigmas)


def _steps(asked: int | None, model: Model, solver: str | None, strength: float | None) -> int:
    """As many as the model takes, and its solver; its own where none are asked for. ``strength``: of what is drawn from
    a picture."""
    preset = model.preset("standard", "natural")
    steps = preset.steps or model.family.steps if asked is None else asked
    drawn_anew = 1.0 if strength is None else min(strength, _MAX_STRENGTH)
    most = specs.most_lcm_steps(solver or preset.scheduler, drawn_anew, model)
    return max(1, min(steps, model.entry.max_steps if most is None else min(most, model.entry.max_steps)))


def _guidance(fields: A1111Fields, model: Model) -> float | None:
    """Distilled guidance is the only one that a guidance-distilled model has; no other model reads it."""
    is_distilled = model.family.flow and math.isinf(model.family.negative_above)
    if is_distilled and fields.distilled_cfg_scale is not None:
        return fields.distilled_cfg_scale
    return fields.cfg_scale


def _said(text: str, model: Model) -> str:
    """A prompt as this model reads it."""
    return prompts.settled(text) if model.entry.prompt_weights else prompts.plain(text)


def _sized(fields: A1111Fields, model: Model) -> A1111Fields:
    """With sides that were left out no longer than the model draws."""
    unsaid = {"width", "height"} - fields.model_fields_set
    return fields.model_copy(update={name: min(getattr(fields, name), model.entry.max_side) for name in unsaid})


def _side(side: int, model: Model, param: str) -> int:
    if not MIN_SIDE <= side <= model.entry.max_side:
        raise BadRequest(
            f"{param} must be from {MIN_SIDE} to {model.entry.max_side} pixels for {models.title(model)}.", param=param
        )
    return side
