"""The reader: what a client sent, as JSON, form or hub body → the fields of ``server.api.wire``, and what was ignored.

The one place that is lenient: it knows absent from empty, aliases, and one value from another spelling of it. Whether
a value may be is ``server.api.wire``'s to say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

import msgspec

from pipelines.facts import step_cache
from server.api import control_fields, references, spellings
from server.api.aliases import HARMLESS, MAX_NAME, PARTS, field_of
from server.api.wire import VARIATION_STRENGTH, ImageFields, check_fields, is_of_shape
from server.errors import BadRequest, DarkroomError

MAX_IGNORED = 20  # names told
_TOKEN = re.compile(rf"[!#$%&'*+.^_`|~0-9A-Za-z-]{{1,{MAX_NAME}}}", re.ASCII)  # RFC 9110's, of which headers are made

_INTEGERS: Final = frozenset({"n", "num_inference_steps", "output_compression", "partial_images", "seed", *PARTS})
_NUMBERS: Final = frozenset({"guidance_scale", "strength"})
_BOOLEANS: Final = frozenset({"stream", "stream_progress"})
_CHOICES: Final = frozenset({"response_format", "quality", "style", "output_format", "background", "input_fidelity",
                               "spacing"})  # fmt: skip
_WEIGHTS: Final = frozenset({"weight", "scale", "multiplier", "strength"})
_RANDOM_SEED = -1  # every local server's word for it


@dataclass(frozen=True)
class Reading:
    """What one request says, and how it said it."""

    fields: ImageFields
    ignored: tuple[str, ...] = ()  # names that were sent and mean nothing here, as they were spelled
    names: Mapping[str, str] = field(default_factory=dict)  # field that was sent → the client's name for it

    def name(self, ours: str) -> str:
        return self.names.get(ours, ours)

    def named(self, error: DarkroomError) -> DarkroomError:
        """``error``, with the name of its field as the client spelled it."""
        return _named(error, self.names)


def read(*places: Mapping[str, Any]) -> Reading:
    """Read a body, or its parts: what an earlier one says of a field wins. Raises BadRequest."""
    first, *others = places
    said = _Said()
    said.hear(first)
    for place in others:
        further = _Said()
        further.hear(place)
        said.fill_in(further)
    return said.reading()


def read_variation(form: Mapping[str, Any]) -> Reading:
    """The same fields without a prompt, and a strength that leaves the picture recognisable. Raises BadRequest."""
    said = _Said()
    prompts = {name for name in form if field_of(name) == "prompt"}
    said.ignored += [name for name in prompts if not spellings.is_empty(form[name])]
    said.hear({name: value for name, value in form.items() if name not in prompts})
    if not said.values.keys() & {"strength", "input_fidelity"}:
        said.values["strength"] = VARIATION_STRENGTH
    said.values["prompt"] = "none"
    reading = said.reading()
    return replace(reading, fields=reading.fields.model_copy(update={"prompt": ""}))


def read_of(fields: Collection[str], sent: Mapping[str, Any]) -> Reading:
    """These of our fields alone, of a route that knows no others and needs no prompt. What else is sent is ignored.
    Raises BadRequest."""
    said = _Said()
    told = {name: value for name, value in sent.items() if field_of(name) in fields}
    said.ignored += [name for name in sent if name not in told and not spellings.is_empty(sent[name])]
    said.hear(told)
    said.values["prompt"] = "none"
    reading = said.reading()
    return replace(reading, fields=reading.fields.model_copy(update={"prompt": ""}))


class _Said:
    """What has been said so far."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}  # by field
        self.names: dict[str, str] = {}  # field → the client's name for it
        self.ignored: list[str] = []

    def hear(self, place: Mapping[str, Any]) -> None:
        """Everything of one place. Raises BadRequest where it says one field twice, and not the same."""
        for name, value in place.items():
            ours = field_of(name)
            if _is_absent(ours, name, value):
                continue
            if ours is None:
                _refuse_picture(name)
                self.ignored.append(name)
            elif ours not in HARMLESS:
                self._hear_one(ours, name, value)
        self._put_together()

    def fill_in(self, further: _Said) -> None:
        """What ``further`` says of fields of which nothing has been said."""
        shaped = {"size", "aspect_ratio"}
        for ours, value in further.values.items():
            if ours not in self.values and not (ours in shaped and shaped & self.values.keys()):
                self.values[ours] = value
                self.names[ours] = further.names[ours]
        self.ignored += further.ignored

    def reading(self) -> Reading:
        """Checked. Raises BadRequest naming the first field that is wrong, as it was spelled."""
        values = dict(self.values)
        if values.get("seed") == _RANDOM_SEED and type(values["seed"]) is int:
            del values["seed"]
        told = tuple(dict.fromkeys(islice((name for name in self.ignored if _TOKEN.fullmatch(name)), MAX_IGNORED)))
        try:
            return Reading(check_fields(values), told, self.names)
        except BadRequest as refusal:
            raise _named(refusal, self.names) from None

    def _hear_one(self, ours: str, name: str, value: Any) -> None:
        match ours:
            case "image":
                self._say_pictures(name, references.pictures(value, name))
            case "images":
                if not isinstance(value, list):
                    raise BadRequest('images must be an array of {"image_url": URL or data: URL}.', param=name)
                self._say_pictures(name, references.pictures(value, name))
            case "mask":
                self._say(ours, name, _one(references.pictures(value, name), name))
            case "scheduler":
                self._hear_scheduler(name, value)
            case "size" if (ratio := spellings.ratio_as_size(value)) is not None:
                self._say("aspect_ratio", name, ratio)
            case "loras":
                self._say(ours, name, self._loras(name, value))
            case "controls":
                items, ignored = control_fields.spelled(name, value)
                self.ignored += ignored
                self._say(ours, name, items)
            case _:
                self._say(ours, name, _spelled(ours, value))

    def _say(self, ours: str, name: str, value: Any) -> None:
        if ours in self.values and not _same(self.values[ours], value):
            raise BadRequest(f"{name} and {self.names[ours]} say the same thing, and differ; send one.", param=name)
        if ours not in self.values:
            self.values[ours] = value
            self.names[ours] = name

    def _say_pictures(self, name: str, texts: list[str]) -> None:
        said = self.names.get("image")
        if said is not None and "images" in (field_of(said), field_of(name)):
            raise BadRequest("Send image or images, not both.", param="images")
        self._say("image", name, texts)

    def _hear_scheduler(self, name: str, value: Any) -> None:
        sampler, spaced = spellings.scheduler(value)
        if spaced:
            self.ignored.append(name)
        if sampler is not None:
            self._say("scheduler", name, sampler)

    def _loras(self, name: str, value: Any) -> Any:
        """With weights by their other names, and as numbers; from a form's JSON text."""
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
                return value
        if isinstance(value, dict) and not isinstance(value.get("name"), str):
            return {key: spellings.number(weight) for key, weight in value.items()}
        if isinstance(value, dict):
            value = [value]
        return [self._lora(name, item) for item in value] if isinstance(value, list) else value

    def _lora(self, name: str, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        said = {key: spellings.number(value) for key, value in item.items() if key in _WEIGHTS and value is not None}
        if len({str(weight) for weight in said.values()}) > 1:
            raise BadRequest(f"{name}: {' and '.join(said)} say the same thing, and differ; send one.", param=name)
        self.ignored += [f"{name}.{key}" for key in item if key not in _WEIGHTS and key != "name"]
        return {"name": item.get("name"), "weight": next(iter(said.values()), None)}

    def _put_together(self) -> None:
        """Width and height as a size, batches as n; and a size beside a shape that it has, or has not."""
        parts = {part: self.values.pop(part) for part in PARTS if part in self.values}
        names = {part: self.names.pop(part) for part in parts}
        for part, value in parts.items():
            if type(value) is not int or not 1 <= value <= 99999:
                raise BadRequest(f"{names[part]} must be an integer from 1 up.", param=names[part])
        if "width" in parts or "height" in parts:
            for part, other in (("width", "height"), ("height", "width")):
                if part not in parts:
                    raise BadRequest(f"{names[other]} needs {part} beside it.", param=names[other])
            self._say("size", names["width"], f"{parts['width']}x{parts['height']}")
        if "batch_size" in parts or "n_iter" in parts:
            first = names.get("batch_size") or names["n_iter"]
            self._say("n", first, parts.get("batch_size", 1) * parts.get("n_iter", 1))
        self._shape()

    def _shape(self) -> None:
        ratio, size = self.values.get("aspect_ratio"), self.values.get("size")
        if ratio == "auto":  # the source's, where there is one
            del self.values["aspect_ratio"]
            name = self.names.pop("aspect_ratio")
            if size is None:
                self._say("size", name, "auto")
        elif ratio is not None and size == "auto":
            del self.values["size"], self.names["size"]
        elif ratio is not None and size is not None and (has_shape := _has_shape(size, ratio)) is not None:
            names = self.names["size"], self.names["aspect_ratio"]
            if not has_shape:
                raise BadRequest(f"{names[0]} and {names[1]} are not of one shape; send one.", param=names[1])
            del self.values["aspect_ratio"], self.names["aspect_ratio"]


def _named(error: DarkroomError, names: Mapping[str, str]) -> DarkroomError:
    ours = error.param
    if ours is not None and ours in names:
        error.param = theirs = names[ours]
        if field_of(theirs) not in PARTS and error.message.startswith((f"{ours} ", f"{ours}:")):
            error.message = theirs + error.message.removeprefix(ours)
    return error


def _refuse_picture(name: str) -> None:
    """``images[0][url]`` and the like: to ignore a picture is to draw another one."""
    stem, bracket, _ = name[: MAX_NAME + 1].partition("[")
    if bracket and field_of(stem) in ("image", "images", "mask"):
        raise BadRequest(f"{stem} cannot be spelled out in brackets; send files in a form, or JSON.", param=stem)


def _is_absent(ours: str | None, name: str, value: Any) -> bool:
    if ours == "prompt" and name == ours:
        return value is None  # an empty one is refused
    if ours == "negative_prompt":
        return value in (None, "")  # a blank is a way to have none of the model's own
    if ours in ("image", "images", "mask"):
        return references.names_nothing(value)
    return spellings.is_empty(value) or (ours is None and value in ([], {}))


def _spelled(ours: str, value: Any) -> Any:
    if ours in _INTEGERS:
        return spellings.integer(value)
    if ours in _NUMBERS:
        return spellings.number(value)
    if ours in _BOOLEANS:
        return spellings.boolean(value)
    if ours in _CHOICES:
        return spellings.choice(ours, value)
    if ours == "step_cache":
        return step_cache.strength(spellings.boolean(spellings.number(value)))
    if ours == "size":
        return spellings.size(value)
    if ours == "aspect_ratio":
        return spellings.aspect_ratio(value)
    if ours == "model" and isinstance(value, str):
        return value.strip()
    return value


def _same(one: Any, other: Any) -> bool:
    """1 is not true here."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _one(texts: list[str], name: str) -> str:
    if len(texts) != 1:  # none: lists in lists, deeper than is looked for what is empty
        raise BadRequest(f"{name} must be one picture.", param=name)
    return texts[0]


def _has_shape(size: Any, ratio: Any) -> bool | None:
    """Whether WIDTHxHEIGHT is of this shape; None where either cannot be read, which is refused elsewhere."""
    try:
        width, height = (int(side) for side in size.split("x"))
        return is_of_shape(width, height, ratio)
    except (AttributeError, ValueError, ArithmeticError):  # also of sides that are 0, or beyond a double
        return None
