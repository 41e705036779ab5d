"""The bodies of AIGNE Hub's image routes → the fields that our own routes take, and pictures → its answers.

Knows FileUnion, camelCase and where a hub client puts which field; decides nothing about a field's value, so that
every check and every error is that of ``server.api.wire``.
"""

from __future__ import annotations

import re
from typing import Any

from server.api.wire import ImageFields, read_fields
from server.errors import BadRequest

_HUMP = re.compile(r"(?<=[a-z0-9])[A-Z]")
_MAX_NAME = 64  # characters; no field of ours has so many
_RESPONSE_FORMATS = {"url": "url", "file": "b64_json", "local": "b64_json"}
_FILE_UNION = '{"type": "url", "url": …} or {"type": "file", "data": base64}'


def read_flat(body: dict[str, Any]) -> ImageFields:
    """The body of POST /api/v2/image/generations: our own fields, in camelCase or snake_case. Raises BadRequest."""
    return _read(_snake(body))


def read_enveloped(body: dict[str, Any]) -> ImageFields:
    """The body of POST /api/v2/image: fields in ``input`` and in its ``modelOptions``. Raises BadRequest."""
    given = _object(body, "input")
    if given is None:
        raise BadRequest("input is required.", param="input", code="missing_field")
    if (_object(body, "options") or {}).get("streaming") is True:
        raise BadRequest("options.streaming is not offered for pictures; send false.", param="options")
    fields = _snake(given)
    fields = {**_snake(_object(fields, "model_options") or {}), **fields}
    file_type = fields.get("output_file_type", "url")
    if not isinstance(file_type, str) or file_type not in _RESPONSE_FORMATS:
        raise BadRequest("outputFileType must be url, file or local.", param="outputFileType")
    return _read({**fields, "response_format": _RESPONSE_FORMATS[file_type]})


def _read(fields: dict[str, Any]) -> ImageFields:
    fields.pop("stream", None)  # these routes answer with JSON, whatever a model's options say
    if "image" in fields:
        image = fields["image"]
        fields["image"] = [_source(item, "image") for item in (image if isinstance(image, list) else [image])]
    if "mask" in fields:
        fields["mask"] = _source(fields["mask"], "mask")
    return read_fields(fields)


def _source(item: Any, param: str) -> str:
    """One picture as the texts that ``image`` may hold: a URL or a data: URL."""
    if isinstance(item, str):
        return item
    if isinstance(item, dict):
        kind = item.get("type")
        if kind == "local":
            raise BadRequest(
                f'{param}: "local" names a file on your machine, which this server cannot read; send {_FILE_UNION}.',
                param=param,
            )
        text = item.get({"url": "url", "file": "data"}.get(kind, "") if isinstance(kind, str) else "")
        if isinstance(text, str):
            # Marked as base64, so that no "data" can be read as a URL.
            return text if kind == "url" or text[:5].lower() == "data:" else f"data:;base64,{text}"
    raise BadRequest(f"{param} must be {_FILE_UNION}, a URL, a data: URL or base64.", param=param)


def _object(fields: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        shown = "modelOptions" if name == "model_options" else name
        raise BadRequest(f"{shown} must be an object.", param=shown)
    return value


def _snake(fields: dict[str, Any]) -> dict[str, Any]:
    """``fields`` without nulls, under snake_case names; where both spellings came, snake_case wins."""
    given = {name: value for name, value in fields.items() if value is not None}
    renamed = {_snake_name(name): value for name, value in given.items()}
    return {**renamed, **{name: given[name] for name in renamed.keys() & given.keys()}}


def _snake_name(name: str) -> str:
    if len(name) > _MAX_NAME:  # a name of sixty megabytes, every other letter a hump, took ten seconds
        return name
    return _HUMP.sub(lambda hump: "_" + hump[0].lower(), name)
