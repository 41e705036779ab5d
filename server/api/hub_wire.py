"""The bodies of AIGNE Hub's image routes → readings.

Knows where a hub client puts which field; decides nothing about a field's value, so that every check and every error
is that of ``server.api.reader``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from server.api.reader import MAX_IGNORED, Reading, read
from server.api.spellings import is_empty, plain
from server.errors import BadRequest

_RESPONSE_FORMATS: Final = {"url": "url", "file": "b64_json", "local": "b64_json"}
_FILE_TYPES: Final = ("outputFileType", "output_file_type")
_OPTIONS: Final = ("modelOptions", "model_options")
# What is no field of a picture in the body around ``input``: the hub's clients send it always.
_ENVELOPE: Final = ("input", "options", "agent")
# What says how the hub is to hand pictures to another vendor, which nobody does here.
_INTERNAL: Final = ("preferInputFileType", "prefer_input_file_type")


def read_flat(body: dict[str, Any]) -> Reading:
    """The body of POST /api/v2/image/generations: our own fields. Raises BadRequest."""
    return _read(body)


def read_enveloped(body: dict[str, Any]) -> Reading:
    """The body of POST /api/v2/image: fields in ``input``, in its ``modelOptions``, and beside it.

    Raises BadRequest.
    """
    given = _object(body, "input")
    if given is None:
        raise BadRequest("input is required.", param="input", code="missing_field")
    if (_object(body, "options") or {}).get("streaming") is True:
        raise BadRequest("options.streaming is not offered for pictures; send false.", param="options")
    places = [given, *(options for name in _OPTIONS if (options := _object(given, name)))]
    places.append({name: value for name, value in body.items() if name not in _ENVELOPE})
    fields = [{name: value for name, value in place.items() if name not in _OPTIONS} for place in places[:-1]]
    return _read(*(_with_response_format(place) for place in (*fields, places[-1])), {"response_format": "url"})


def _read(*places: Mapping[str, Any]) -> Reading:
    reading = read(*places)
    if reading.fields.stream:  # these routes answer with JSON, whatever a model's options say
        fields = reading.fields.model_copy(update={"stream": False})
        return replace(reading, fields=fields, ignored=(*reading.ignored, reading.name("stream"))[:MAX_IGNORED])
    return reading


def _with_response_format(place: Mapping[str, Any]) -> dict[str, Any]:
    """What a hub client calls the form of the answer, by our name for it."""
    fields = {name: value for name, value in place.items() if name not in (*_FILE_TYPES, *_INTERNAL)}
    for name in _FILE_TYPES:
        value = place.get(name)
        if is_empty(value):
            continue
        form = _RESPONSE_FORMATS.get(plain(value).lower()) if isinstance(value, str) else None
        if form is None:
            raise BadRequest(f"{name} must be url, file or local.", param=name)
        if fields.setdefault("response_format", form) != form:
            raise BadRequest(f"{name} and response_format differ; send one.", param=name)
    return fields


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object.", param=name)
    return value
