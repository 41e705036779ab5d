"""The wire: what a client may send, the fields of an image request, their types and bounds.

Knows field names and the wording of a refusal; knows neither models.yaml nor pictures. Strict on purpose: what a value
may be written like is ``server.api.reader``'s to know. NaN is no number, and what was sent is never echoed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from pipelines.facts.presets import Quality, Style
from pipelines.facts.spacing import Spacing
from server.api import control_fields
from server.api.control_fields import Controls
from server.catalog.loras import MAX_WEIGHT
from server.errors import BadRequest

MAX_SEED = 2**63 - 1
VARIATION_STRENGTH = 0.6
_RATIO_TOLERANCE = 0.03  # 1792x1024 counts as 16:9
_MAX_RATIO_SIDE = 1e6  # and 1 / this at least
MAX_LORAS = 8
_MAX_TEXT = 100_000  # characters, of any text field; the model's own limit on prompts is checked later

Format = Literal["png", "jpeg", "webp"]


def _is_text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL characters")
    return value


Text = Annotated[str, Field(max_length=_MAX_TEXT), AfterValidator(_is_text)]


class LoraFields(BaseModel):
    """One adapter, and how much of it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    name: str = Field(max_length=100)
    weight: float | None = Field(None, ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)


def _spell_out(value: Any) -> Any:
    """The short spellings: ["pixel"], and {"pixel": 0.8}."""
    if isinstance(value, dict):
        value = [{"name": name, "weight": weight} for name, weight in value.items()]
    if isinstance(value, list):
        return tuple({"name": item} if isinstance(item, str) else item for item in value)
    return value


# Written out: a reference from one schema to another does not survive being put into the OpenAPI document.
_LORAS_SCHEMA = {
    "type": "array",
    "maxItems": MAX_LORAS,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "weight": {"type": "number", "minimum": -MAX_WEIGHT, "maximum": MAX_WEIGHT},
        },
        "required": ["name"],
    },
}
Loras = Annotated[tuple[LoraFields, ...], BeforeValidator(_spell_out), WithJsonSchema(_LORAS_SCHEMA)]


def _is_ratio(value: str) -> str:
    try:
        sides_of(value)
    except ValueError:
        raise ValueError("must look like 16:9") from None
    return value


Ratio = Annotated[str, AfterValidator(_is_ratio)]


def sides_of(ratio: str) -> tuple[float, float]:
    """ "16:9" → (16, 9). Raises ValueError, also for sides whose product or quotient is no number to reckon with."""
    across, down = (float(side) for side in ratio.split(":"))
    if not all(1 / _MAX_RATIO_SIDE <= side <= _MAX_RATIO_SIDE for side in (across, down)):
        raise ValueError("no shape of a picture")
    return across, down


def is_of_shape(width: int, height: int, ratio: str) -> bool:
    """Whether a size has this aspect ratio, about."""
    across, down = sides_of(ratio)
    return abs(width * down / (height * across) - 1) <= _RATIO_TOLERANCE


# A client may send true or false, too: the reader makes numbers of them.
STEP_CACHE_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "boolean"}, {"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}],
    "default": None,
}


class ImageFields(BaseModel):
    """The fields of a request for pictures, in their canonical form. ``server.api.reader`` brings others to it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())

    prompt: Text = Field(min_length=1, description="what to draw; the maximum length is the model's")
    model: str | None = Field(None, max_length=200, description="an ID of /v1/models; default: the server's")
    image: str | list[str] | None = Field(
        None, description="picture(s) to edit: http(s) URL, data: URL or base64; present: image-to-image"
    )
    mask: str | None = Field(
        None,
        description="what to repaint: transparent pixels, or the white ones of a mask without transparency",
    )
    n: int = Field(1, ge=1, le=10, description="how many pictures, 1 to 10")
    size: str | None = Field(None, max_length=20, description="WIDTHxHEIGHT or auto; the sizes are the model's")
    aspect_ratio: Ratio | None = Field(
        None, max_length=20, description="instead of size: WIDTH:HEIGHT, the shape of a picture of the usual area"
    )
    response_format: Literal["url", "b64_json"] | None = Field(
        None, description="a URL lives one hour; default: the model's, see below"
    )
    quality: Quality = Field("standard", description="hd, high, xhigh and max: finer, slower; low: coarser, faster")
    style: Style = Field("vivid", description="vivid: strong colours; natural: calmer")
    output_format: Format = Field("png", description="the pictures' file format")
    output_compression: int = Field(90, ge=0, le=100, description="quality of jpeg and webp, percent")
    background: Literal["auto", "opaque", "transparent"] = Field(
        "auto", description="transparent: the object alone, where the model can; not with jpeg"
    )
    stream: bool = Field(False, description="answer with events, as the pictures come")
    partial_images: int = Field(
        0, ge=0, le=3, description="with stream: how many times to show each picture on its way"
    )
    stream_progress: bool = Field(False, description="with stream: tell the place in the queue, and every step")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same seed and parameters, same picture")
    negative_prompt: Text | None = Field(None, description="what to keep out of the picture")
    num_inference_steps: int | None = Field(
        None, ge=1, le=500, description="denoising steps; the maximum is the model's"
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=50, allow_inf_nan=False, description="how closely to follow the prompt"
    )
    strength: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="how much of the source is drawn anew"
    )
    input_fidelity: Literal["low", "high"] | None = Field(
        None, description="how near an edit stays to its source; stands for a strength, and gives way to one"
    )
    scheduler: str | None = Field(None, max_length=40, description="sampling method; the choices are the model's")
    spacing: Spacing | None = Field(
        None, description="where the steps lie; dense_start: closer at the beginning, for pictures of few steps"
    )
    step_cache: Annotated[float | None, WithJsonSchema(STEP_CACHE_SCHEMA)] = Field(
        None, ge=0, le=1, description="steps are told from others instead of computed: true (0.5), or how many, 0 to 1"
    )
    loras: Loras = Field((), max_length=MAX_LORAS, description="adapters of the model, each by name and weight")
    controls: Controls = Field(
        (),
        max_length=control_fields.MAX_CONTROLS,
        description="ControlNets of the model: each by name, with its image, weight, start and end",
    )

    webhook: Text | None = Field(
        None, description="with the header Prefer: respond-async: a URL that is told when the job has ended"
    )

    @property
    def images(self) -> list[str]:
        """The source pictures, in order; empty when there are none."""
        if self.image is None:
            return []
        return [self.image] if isinstance(self.image, str) else self.image


def check_fields(data: dict[str, Any]) -> ImageFields:
    """Check the fields. Raises BadRequest naming the first that is wrong, and what it may be."""
    try:
        return ImageFields.model_validate(data)
    except ValidationError as error:
        raise _refuse(error.errors(include_input=False, include_url=False)[0]) from None


_TYPES = {
    "string_type": "a string",
    "bool_type": "a boolean, true or false",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
}


def _refuse(item: ErrorDetails) -> BadRequest:
    param = str(item["loc"][0]) if item["loc"] else None
    kind, context = item["type"], item.get("ctx", {})
    if param == "loras":
        return BadRequest(
            f'loras must be an array of at most {MAX_LORAS} {{"name": text, "weight": number}}, weights from '
            f"{-MAX_WEIGHT:g} to {MAX_WEIGHT:g}.",
            param=param,
        )
    if param == control_fields.FIELD:
        return control_fields.refuse(item)
    if kind == "missing":
        return BadRequest(f"{param} is required.", param=param, code="missing_field")
    if kind == "string_too_short":
        return BadRequest(f"{param} must not be empty.", param=param)
    if kind == "string_too_long":
        return BadRequest(f"{param} must have at most {context['max_length']} characters.", param=param)
    if kind == "literal_error":
        return BadRequest(f"{param} must be {context['expected'].replace(chr(39), '')}.", param=param)
    if param == "n":
        return BadRequest("n must be an integer from 1 to 10.", param=param)
    if param == "size" and kind == "string_type":
        return BadRequest("size must be WIDTHxHEIGHT or auto.", param=param)
    if param == "seed":
        return BadRequest(f"seed must be an integer from 0 to {MAX_SEED}, or -1 for a random one.", param=param)
    if kind in _TYPES:
        return BadRequest(f"{param} must be {_TYPES[kind]}.", param=param)
    if param == "image":
        return BadRequest("image must be a string or an array of strings: URLs, data: URLs or base64.", param=param)
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return BadRequest(f"{param} {message if message.startswith('must ') else f'must be {message}'}.", param=param)
