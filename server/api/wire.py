"""What a client may send: the fields of an image request, their types and bounds.

Knows field names and the wording of a refusal; knows neither models.yaml nor pictures. Strict on purpose: true,
1.0 and "3" are not integers, NaN is no number, and what was sent is never echoed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from server.errors import BadRequest

MAX_SEED = 2**63 - 1
_MAX_TEXT = 100_000  # characters, of any text field; the model's own limit on prompts is checked later

Format = Literal["png", "jpeg", "webp"]


def _is_text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL characters")
    return value


Text = Annotated[str, Field(max_length=_MAX_TEXT), AfterValidator(_is_text)]


class ImageRequest(BaseModel):
    """The body of a generation or an edit. Unknown fields are ignored, as clients expect."""

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
    response_format: Literal["url", "b64_json"] = Field("url", description="a URL lives one hour")
    quality: Literal["standard", "hd", "low", "medium", "high", "auto"] = Field(
        "standard", description="hd and high: finer, slower; low: coarser, faster"
    )
    style: Literal["vivid", "natural"] = Field("vivid", description="vivid: strong colours; natural: calmer")
    output_format: Format = Field("png", description="the pictures' file format")
    output_compression: int = Field(90, ge=0, le=100, description="quality of jpeg and webp, percent")
    stream: bool = Field(False, description="not offered yet: must be false")
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
    scheduler: str | None = Field(None, max_length=40, description="sampling method; the choices are the model's")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data

    @property
    def images(self) -> list[str]:
        """The source pictures, in order; empty when there are none."""
        if self.image is None:
            return []
        return [self.image] if isinstance(self.image, str) else self.image


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object from a body. Raises BadRequest, without a word of what was sent."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(
            "The body is not valid JSON. NaN, Infinity, numbers beyond a double and lone surrogates are not JSON."
        ) from None
    if not isinstance(data, dict):
        raise BadRequest("The body must be a JSON object.")
    return data


def read_request(data: dict[str, Any]) -> ImageRequest:
    """Check the fields. Raises BadRequest naming the first that is wrong, and what it may be."""
    try:
        return ImageRequest.model_validate(data)
    except ValidationError as error:
        raise _refuse(error.errors(include_input=False, include_url=False)[0]) from None


def _refuse(item: ErrorDetails) -> BadRequest:
    param = str(item["loc"][0]) if item["loc"] else None
    kind, context = item["type"], item.get("ctx", {})
    if kind == "missing":
        return BadRequest(f"{param} is required.", param=param, code="missing_field")
    if kind == "string_too_short":
        return BadRequest(f"{param} must not be empty.", param=param)
    if kind == "literal_error":
        return BadRequest(f"{param} must be {context['expected'].replace(chr(39), '')}.", param=param)
    if param == "n":
        return BadRequest("n must be an integer from 1 to 10.", param=param)
    if param == "seed":
        return BadRequest(f"seed must be an integer from 0 to {MAX_SEED}.", param=param)
    if param == "image":
        return BadRequest("image must be a string or an array of strings: URLs, data: URLs or base64.", param=param)
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return BadRequest(
        f"{param} must be {message.removeprefix('must ')}.".replace("must be not", "must not"), param=param
    )
