"""Upscaling: a picture that was sent, made larger by a network of models.yaml or by Lanczos, as a job like any other.

Knows what may be asked and the spec that it makes; knows neither bodies nor pixels. A network stands here for a model:
one that needs no prompt, takes one picture, and draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Request

from pipelines.facts.families import Family
from pipelines.facts.presets import DrawingArea
from pipelines.plan import UPSCALER, ModelPlan
from pipelines.spec import LANCZOS, ImageSpec, Pixels, Task
from server.api import generation, spellings
from server.api.allowed import require_upscaler_allowed
from server.api.generation import Generation
from server.api.outcome import Outcome
from server.api.reader import Reading, read_of
from server.api.services import Services
from server.api.sources import Size
from server.api.specs import Sources
from server.api.submission import Submission
from server.catalog.catalog import Catalog, Model
from server.catalog.entries import ModelEntry, parse_size
from server.catalog.upscalers import MAX_FACTOR, plan_of
from server.errors import BadRequest, ModelNotFound
from server.inputs.container import MAX_SIDE
from server.inputs.decode import decode_image
from server.jobs.limits import Limits

_FIELDS: Final = frozenset(
    {"image", "images", "model", "size", "width", "height", "response_format", "output_format", "output_compression"}
)
_FAMILY: Final = Family(UPSCALER, (), tasks=frozenset({Task.IMAGE_TO_IMAGE}), multiple=1)
_AREA: Final = DrawingArea(MAX_SIDE, MAX_SIDE, 1, min_pixels=1, max_pixels=MAX_SIDE**2)
_MAX_SIDES: Final = {"jpeg": 65_500, "webp": 16_383}  # of these files, pixels; libjpeg's bound, and WebP's own
_ROUNDING: Final = 1.01  # of a factor: sides are whole pixels


@dataclass(frozen=True)
class UpscaleSubmission(Submission):
    """A submission of this route."""

    scale: float | None = field(kw_only=True)  # None: to a size
    most_factor: float = MAX_FACTOR

    @property
    def needs_prompt(self) -> bool:
        return False

    @property
    def own(self) -> str:
        return f"scale {self.scale}"

    def model_in(self, catalog: Catalog, limits: Limits) -> Model:
        """What stands for the network that is named; the first where none is, and Lanczos where there is none."""
        name = self.fields.model or next(iter(catalog.upscalers), LANCZOS)
        if name.lower() == LANCZOS:
            return _model(LANCZOS, plan_of(LANCZOS, ()))
        upscaler = catalog.upscalers.get(name)
        if upscaler is None:
            known = ", ".join((*catalog.upscalers, LANCZOS))
            raise ModelNotFound(f"No such upscaler. This server has: {known}.", param="model")
        require_upscaler_allowed(catalog, limits, upscaler)
        return _model(name, upscaler.plan)


async def make(services: Services, request: Request, submission: UpscaleSubmission) -> Outcome:
    """Have a picture enlarged, and wait for it, as ``generation.make`` does."""

    def assign(services_: Services, _: object, model: Model, base: str) -> Upscaling:
        return Upscaling(services_, submission, model, base)

    admitted = await generation.begin(services, request, submission, assign)
    return await generation.finish(request, submission, admitted)


def _model(name: str, plan: ModelPlan) -> Model:
    entry = ModelEntry(path=plan.folder).model_copy(update={"max_side": MAX_SIDE})
    return Model(name, entry, plan, _FAMILY, _AREA)


def read_upscaling(sent: Mapping[str, Any]) -> tuple[Reading, float | None]:
    """What a body asks for: our fields, and a scale where no size is asked for. Raises BadRequest."""
    scale = spellings.number(sent.get("scale"))
    reading = read_of(_FIELDS, {name: value for name, value in sent.items() if name != "scale"})
    size = reading.fields.size
    if spellings.is_empty(scale):
        scale = None
    if (scale is None) == (size is None):
        both = "both" if size is not None else "neither"
        raise BadRequest(f"scale or size is required, one of them; this request has {both}.", param="scale")
    if size is not None:
        _require_size(reading, size)
    elif isinstance(scale, bool) or not isinstance(scale, int | float) or not 1 < scale <= MAX_FACTOR:
        raise BadRequest(f"scale must be a number above 1, at most {MAX_FACTOR:g}.", param="scale")
    return reading, None if scale is None else float(scale)


def _require_size(reading: Reading, text: str) -> None:
    name = reading.name("size")
    try:
        sides = parse_size(text)
    except ValueError:
        sides = (0, 0)
    if not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise BadRequest(f"{name} must be WIDTHxHEIGHT, like 2048x2048.", param=name)


def size_of(
    source: Size, scale: float | None, wanted: str | None, *, most_pixels: int, most_factor: float = MAX_FACTOR
) -> Size:
    """The size that a picture of this one is brought to, in pixels. Raises BadRequest naming scale or size."""
    param = "scale" if scale is not None else "size"
    if scale is not None:
        size = round(source[0] * scale), round(source[1] * scale)
    else:
        size = parse_size(wanted or "")
        factor = max(size[0] / source[0], size[1] / source[1])
        if factor <= 1:
            raise BadRequest(f"size is not larger than the picture, {source[0]} × {source[1]}.", param=param)
        if factor > most_factor * _ROUNDING:
            raise BadRequest(
                f"size is more than {most_factor:g} times as large as the picture, {source[0]} × {source[1]}.",
                param=param,
            )
    if math.prod(size) > most_pixels or max(size) > MAX_SIDE:
        raise BadRequest(
            f"{param} makes a picture of {size[0]} × {size[1]} pixels; this server allows {most_pixels} in all"
            " (DARKROOM_MAX_IMAGE_PIXELS).",
            param=param,
        )
    return size


def require_writable(size: Size, format_: str) -> None:
    """Raise BadRequest where no file of this format can be so large: after the drawing it would be too late."""
    most = _MAX_SIDES.get(format_, MAX_SIDE)
    if max(size) > most:
        raise BadRequest(
            f"output_format {format_} has at most {most} pixels a side; this picture would have {size[0]} × {size[1]}."
            " Ask for png.",
            param="output_format",
        )


def enlarging(name: str, source: Pixels, size: Size) -> ImageSpec:
    """The spec of a picture that is enlarged by the upscaler ``name``: one step, of as many pixels as come out."""
    return ImageSpec(
        model=name,
        prompt="",
        width=size[0],
        height=size[1],
        draw_width=size[0],
        draw_height=size[1],
        steps=1,
        guidance=0.0,
        sources=(source,),
        upscaler=None if name == LANCZOS else name,
        only_enlarges=True,
    )


@dataclass(frozen=True)
class Upscaling(Generation):
    """The assignment of one job of this route."""

    submission: UpscaleSubmission

    @property
    def seeds(self) -> tuple[int, ...]:
        return (0,)  # one picture; nothing about it is chance

    async def arrange(self, principal: str, images: Sequence[bytes], mask: bytes | None) -> tuple[Size, Sources]:
        services, fields = self.services, self.submission.fields
        decoding = services.decoders.decoding(principal)
        decoded = await decoding.run(
            lambda: decode_image(images[0], limits=services.limits, param="image"), param="image"
        )
        has_alpha = decoded.rgba is not None and fields.output_format != "jpeg"
        source = decoded.rgba if has_alpha and decoded.rgba is not None else decoded.rgb
        size = size_of(
            (source.width, source.height),
            self.submission.scale,
            fields.size,
            most_pixels=services.limits.max_pixels,
            most_factor=self.submission.most_factor,
        )
        require_writable(size, fields.output_format)
        return size, Sources((source,))

    def make_spec(self, size: Size, sources: Sources) -> ImageSpec:
        return enlarging(self.model.id, sources.images[0], size)
