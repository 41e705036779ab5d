"""Forms: multipart bodies → the same fields that JSON bodies have, and the uploaded files' bytes.

Knows form fields; a file's name and claimed type are never used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from server.errors import BadRequest, TooLarge

_INTEGERS = frozenset({"n", "seed", "num_inference_steps", "output_compression", "partial_images"})
_BOOLEANS = frozenset({"stream", "stream_progress"})
_NUMBERS = frozenset({"guidance_scale", "strength"})
_IMAGES = ("image", "image[]")
_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Form:
    """A multipart request: its text fields as JSON would have them, and its files."""

    fields: dict[str, Any]
    images: list[bytes]
    mask: bytes | None


async def read_form(request: Request, *, max_files: int, max_file_bytes: int) -> Form:
    """Read a multipart body. Raises BadRequest or TooLarge."""
    # One part more than may be kept, so that the refusal below is the one that is answered.
    limits = {"max_files": max_files + 2, "max_fields": _MAX_FIELDS, "max_part_size": _MAX_FIELD_BYTES}
    try:
        async with request.form(**limits) as form:
            images = [await _bytes(part, max_file_bytes, "image") for name in _IMAGES for part in form.getlist(name)]
            mask = await _bytes(form["mask"], max_file_bytes, "mask") if "mask" in form else None
            return Form(_fields(form), images, mask)
    except HTTPException as error:
        raise _refusal(error.detail, max_files) from error
    except UnicodeError as error:
        raise BadRequest("The form's charset cannot be read; send UTF-8.") from error


def _refusal(detail: str, max_files: int) -> BadRequest | TooLarge:
    """Starlette's refusals, told apart by their first words."""
    if detail.startswith("Too many files"):
        return TooLarge(f"image has more than {max_files} pictures.", param="image")
    if detail.startswith("Too many fields"):
        return TooLarge(f"The form has more than {_MAX_FIELDS} fields.")
    if detail.startswith("Part exceeded"):
        return TooLarge(f"A text field of the form is larger than {_MAX_FIELD_BYTES} bytes.")
    return BadRequest(
        "The body is not multipart/form-data as its Content-Type says; its boundary must be named there, and every"
        " part must have a name."
    )


def _fields(form: FormData) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    loras: list[dict[str, Any]] = []
    for name, value in form.multi_items():
        if name in (*_IMAGES, "mask") or isinstance(value, UploadFile):
            continue
        if name.startswith("loras["):
            _add_lora(loras, name.removeprefix("loras"), value)
        else:
            fields[name] = _typed(name, value)
    return {"loras": loras, **fields} if loras else fields


def _add_lora(loras: list[dict[str, Any]], path: str, value: str) -> None:
    """One field of how OpenAI's SDKs spell out arrays and objects: [], [][name] and [][weight], or [NAME].

    Nothing says where an array's next item begins, but a key that the last one has already.
    """
    if path == "[]":
        loras.append({"name": value})
    elif path in ("[][name]", "[][weight]"):
        key = path[3:-1]
        if not loras or key in loras[-1]:
            loras.append({})
        loras[-1][key] = value if key == "name" else _number(value)
    else:
        loras.append({"name": path[1:].removesuffix("]"), "weight": _number(value)})


def _typed(name: str, text: str) -> Any:
    """Form fields are all text; give numbers and booleans the type that JSON would have given them."""
    if name in _INTEGERS and text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20:
        return int(text)
    if name in _NUMBERS:
        return _number(text)
    if name == "loras":
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return text
    if name in _BOOLEANS and text in ("true", "false"):
        return text == "true"
    return text


def _number(text: str) -> float | str:
    try:
        return float(text) if len(text) <= 30 else text
    except ValueError:
        return text


async def _bytes(part: UploadFile | str, limit: int, param: str) -> bytes:
    if isinstance(part, str):
        raise BadRequest(f"{param} must be an uploaded file.", param=param)
    if part.size is not None and part.size > limit:
        raise TooLarge(f"{param} is larger than {limit} bytes.", param=param)
    return await part.read()
