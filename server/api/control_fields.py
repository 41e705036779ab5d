"""The field ``controls``: what each of its items holds, how programs spell it, and the wording of a refusal.

Knows names, types and bounds; knows neither models.yaml nor pictures. Refusals name the item: ``controls[0].weight``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import ErrorDetails

from pipelines.facts.controls import PREPROCESSORS, Preprocessor
from server.api import references, spellings
from server.errors import BadRequest

FIELD: Final = "controls"
MAX_CONTROLS = 4
MAX_WEIGHT = 2.0
_MAX_NAME = 100  # characters

# What AUTOMATIC1111's extension and diffusers call the same.
_NAMES: Final = {
    "name": ("name", "model"),
    "image": ("image", "image_url", "input_image", "control_image"),
    "weight": ("weight", "scale", "conditioning_scale", "controlnet_conditioning_scale"),
    "start": ("start", "guidance_start", "control_guidance_start"),
    "end": ("end", "guidance_end", "control_guidance_end"),
    "preprocess": ("preprocess", "preprocessor", "module"),
}
_NUMBERS: Final = ("weight", "start", "end")
_BOUNDS: Final = {"weight": f"a number from 0 to {MAX_WEIGHT:g}", "start": "a number from 0 to 1",
                  "end": "a number from 0 to 1", "preprocess": " or ".join(PREPROCESSORS)}  # fmt: skip


class ControlFields(BaseModel):
    """One ControlNet, the picture that it steers by, and how much and when it does."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    name: str = Field(min_length=1, max_length=_MAX_NAME)
    image: str
    weight: float = Field(1.0, ge=0, le=MAX_WEIGHT, allow_inf_nan=False)
    start: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    end: float = Field(1.0, ge=0, le=1, allow_inf_nan=False)
    preprocess: Preprocessor = "none"

    @model_validator(mode="after")
    def _is_range(self) -> ControlFields:
        if self.start >= self.end:
            raise ValueError("start must be less than end")
        return self


# Written out: a reference from one schema to another does not survive being put into the OpenAPI document.
_SCHEMA: Final[dict[str, Any]] = {
    "type": "array",
    "maxItems": MAX_CONTROLS,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "one of the model's controls in /v1/models"},
            "image": {"type": "string", "description": "http(s) URL, data: URL or base64"},
            "weight": {"type": "number", "minimum": 0, "maximum": MAX_WEIGHT, "default": 1},
            "start": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
            "end": {"type": "number", "minimum": 0, "maximum": 1, "default": 1},
            "preprocess": {"type": "string", "enum": list(PREPROCESSORS), "default": "none"},
        },
        "required": ["name", "image"],
    },
}
Controls = Annotated[tuple[ControlFields, ...], WithJsonSchema(_SCHEMA)]


def param(number: int, key: str) -> str:
    """What a refusal calls a key of an item."""
    return f"{FIELD}[{number}].{key}"


def spelled(name: str, value: Any) -> tuple[Any, list[str]]:
    """The items in our spelling, of a form's JSON text too, and the keys that mean nothing here. Raises BadRequest for
    a picture that cannot be told, and for two names of one thing that differ."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return value, []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or len(value) > MAX_CONTROLS:
        return value, []
    ignored: list[str] = []
    items = tuple(_item(number, item, name, ignored) for number, item in enumerate(value))
    return items, ignored


def _item(number: int, item: Any, name: str, ignored: list[str]) -> Any:
    if not isinstance(item, dict):
        return item
    said: dict[str, Any] = {}
    known = {other: ours for ours, others in _NAMES.items() for other in others}
    for key, sent in item.items():
        ours = known.get(key)
        if ours is None:
            ignored.append(f"{name}.{key}")
            continue
        if references.names_nothing(sent) if ours == "image" else spellings.is_empty(sent):
            continue
        value = _value(number, ours, sent)
        if ours in said and said[ours] != value:
            raise BadRequest(f"{param(number, ours)} is said twice, and differs; send one.", param=param(number, ours))
        said[ours] = value
    return said


def _value(number: int, ours: str, sent: Any) -> Any:
    if ours == "image":
        found = references.pictures(sent, param(number, ours))
        if len(found) != 1:
            raise BadRequest(f"{param(number, ours)} must be one picture.", param=param(number, ours))
        return found[0]
    if ours == "preprocess":
        return spellings.choice(ours, sent)
    return spellings.number(sent) if ours in _NUMBERS else sent


def refuse(item: ErrorDetails) -> BadRequest:
    """What is wrong with one item, or with all of them."""
    where, kind = item["loc"][1:], item["type"]
    if not where or not isinstance(where[0], int):
        return BadRequest(
            f'{FIELD} must be an array of at most {MAX_CONTROLS} {{"name": text, "image": URL or base64, "weight":'
            ' number, "start": number, "end": number}.',
            param=FIELD,
        )
    number = where[0]
    if len(where) == 1:
        if kind == "value_error":
            return BadRequest(f"{param(number, 'start')} must be less than its end.", param=param(number, "start"))
        return BadRequest(f"{FIELD}[{number}] must be an object with name and image.", param=f"{FIELD}[{number}]")
    key = str(where[1])
    place = param(number, key)
    if kind == "missing":
        return BadRequest(f"{place} is required.", param=place, code="missing_field")
    if kind == "string_too_long":
        return BadRequest(f"{place} must have at most {_MAX_NAME} characters.", param=place)
    return BadRequest(f"{place} must be {_BOUNDS.get(key, 'a text')}.", param=place)
