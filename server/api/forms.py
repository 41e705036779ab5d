"""Forms: multipart bodies → the same fields that JSON bodies have, and the uploaded files' bytes.

Knows form fields and the names under which clients send files; a file's own name and claimed type are never used.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request

from server.api import control_forms
from server.api.control_fields import FIELD, MAX_CONTROLS
from server.api.multipart import Part, boundary_of, read_parts
from server.api.off_loop import off_loop
from server.api.spellings import is_empty
from server.edge.body import chunks_of
from server.errors import BadImage, BadRequest, TooLarge
from server.inputs.base64_text import decode_base64

_FILES = re.compile(r"(?:(images?)|(mask))(?:\[([0-9]{0,4})\])?", re.ASCII)
_SHOWABLE = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}", re.ASCII)
_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 1024 * 1024
_MAX_BLANK_BYTES = 1024


@dataclass(frozen=True)
class Form:
    """A multipart request: its text fields, which ``server.api.reader`` gives their types, and its files."""

    fields: dict[str, Any]
    images: list[bytes]
    mask: bytes | None


async def read_form(request: Request, *, max_files: int, max_file_bytes: int) -> Form:
    """Read a multipart body. Raises BadRequest or TooLarge."""
    boundary = boundary_of(request.headers.get("content-type", ""))
    parts = await read_parts(chunks_of(request), boundary, _Limits(max_files, max_file_bytes))
    images, masks, controls, texts = _sorted(parts)
    size = sum(len(part.data) for part in (*texts, *controls))
    fields = await off_loop(size, lambda: _fields(texts, controls, max_file_bytes))
    files = [*images, *masks]
    size = sum(len(part.data) for part in files)
    taken = await off_loop(size, lambda: [_taken(part, max_file_bytes) for part in files])
    return Form(fields, taken[: len(images)], taken[-1] if masks else None)


class _Limits:
    """How many parts there may be, and how large each. What must be refused is refused while it arrives."""

    def __init__(self, max_files: int, max_file_bytes: int) -> None:
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._files = 0  # that are not empty
        self._fields = 0
        self._controls = 0  # files of controls
        self._last: Part | None = None  # of the files that are counted

    def begin(self, part: Part) -> None:
        if part.filename is None:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise TooLarge(f"The form has more than {_MAX_FIELDS} fields.")

    def grown(self, part: Part) -> None:
        match = _FILES.fullmatch(part.name)
        is_control = control_forms.is_part(part.name)
        param = part.name if is_control else "mask" if match is not None and match[2] else "image"
        if part.filename is None:
            # An empty one is absent, as every empty field is; but white space is looked at again whenever more arrives.
            if match is not None and (len(part.data) > _MAX_BLANK_BYTES or part.data.strip()):
                raise BadRequest(
                    f"{param} must be an uploaded file: its part of the form has no filename. Give it one, or send"
                    " JSON, where a URL or base64 may stand.",
                    param=param,
                )
            if len(part.data) > _MAX_FIELD_BYTES:
                raise TooLarge(f"A text field of the form is larger than {_MAX_FIELD_BYTES} bytes.")
            return
        if match is None and not is_control:
            raise _unknown_file(part.name)
        # What comes in base64 is a third larger, and its line breaks; it is measured again when it is decoded.
        most = self._max_file_bytes * 3 // 2 if part.encoding == "base64" else self._max_file_bytes
        if len(part.data) > most:
            raise TooLarge(f"{param} is larger than {self._max_file_bytes} bytes.", param=param)
        if part is not self._last:
            self._last = part
            self._files += not is_control
            self._controls += is_control
            if self._controls > MAX_CONTROLS:
                raise TooLarge(f"{FIELD} has more than {MAX_CONTROLS} pictures.", param=FIELD)
            # A mask, and one picture more than may be kept: the refusal of that one says how many a model takes.
            if self._files > self._max_files + 2:
                raise TooLarge(f"image has more than {self._max_files} pictures.", param="image")


def _unknown_file(name: str) -> BadRequest:
    shown = f"named {name}" if _SHOWABLE.fullmatch(name) else "under a name that is none of ours"
    return BadRequest(
        f"The form has a file {shown}, which no field of this request is. Send pictures as image, image[] or"
        " image[0], image[1] …, and a mask as mask.",
        param=name if _SHOWABLE.fullmatch(name) else None,
    )


def _sorted(parts: Sequence[Part]) -> tuple[list[Part], list[Part], list[Part], list[Part]]:
    """Pictures in their order, masks, pictures of controls, and text fields. Raises BadRequest for more than one
    mask."""
    images: list[tuple[int, Part]] = []
    masks: list[Part] = []
    controls: list[Part] = []
    texts: list[Part] = []
    for part in parts:
        match = _FILES.fullmatch(part.name)
        if part.filename is None:
            if match is None:
                texts.append(part)
        elif not part.filename and not part.data:
            continue  # nothing is in it: the empty slot of a browser's form
        elif match is None:
            if control_forms.is_part(part.name):  # else it is empty, or it was refused
                controls.append(part)
        elif match[2]:
            masks.append(part)
        else:
            images.append((int(match[3] or 0), part))
    if len(masks) > 1:
        raise BadRequest(f"The form has {len(masks)} masks; an edit takes one.", param="mask")
    images.sort(key=lambda numbered: numbered[0])  # where numbers are equal, or none, as they came
    return [part for _, part in images], masks, controls, texts


def _fields(parts: Iterable[Part], controls: Iterable[Part], max_file_bytes: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    texts: dict[str, str] = {}
    loras: list[dict[str, Any]] = []
    of_controls: list[control_forms.Named] = []
    for part in parts:
        name, value = part.name, _text(part)
        if name.startswith("loras["):
            _add_lora(loras, name.removeprefix("loras"), value)
            continue
        if control_forms.is_part(name):
            of_controls.append((name, value))
            continue
        name = name.removesuffix("[]")  # as PHP and Rails write a field of one value
        if name in fields and not is_empty(value):
            _check_repeated(name, texts[name], value)
        if name not in fields or not is_empty(value):
            texts[name] = value
            fields[name] = _loras(value) if name == "loras" else value
    of_controls += [(part.name, _taken(part, max_file_bytes)) for part in controls]
    if of_controls:
        fields[FIELD] = control_forms.put_together(texts.get(FIELD), of_controls)
    return {"loras": loras, **fields} if loras else fields


def _check_repeated(name: str, one: str, other: str) -> None:
    if not is_empty(one) and one != other:
        shown = name if _SHOWABLE.fullmatch(name) else None
        raise BadRequest(f"{shown or 'A field'} is twice in the form, and differs; send one.", param=shown)


def _taken(part: Part, max_bytes: int) -> bytes:
    """A part's data, decoded; the part has it no more, so that one file at a time is there twice."""
    data, part.data = bytes(part.data), bytearray()
    if not part.encoding or not data.strip():
        return data
    shown = part.name if _SHOWABLE.fullmatch(part.name) else None
    try:
        if part.encoding == "base64":
            return decode_base64(data.decode("latin-1"), max_bytes=max_bytes, param=shown or "image")
        return binascii.a2b_qp(data)
    except BadImage:
        raise BadRequest(
            f"{shown or 'A part of the form'} is not base64, as its Content-Transfer-Encoding says.", param=shown
        ) from None


def _text(part: Part) -> str:
    """A field's text. Only UTF-8 is read, whatever character set a client names."""
    try:
        return _taken(part, _MAX_FIELD_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        shown = part.name if _SHOWABLE.fullmatch(part.name) else None
        raise BadRequest(f"{shown or 'A field of the form'} is not UTF-8 text.", param=shown) from None


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


def _loras(text: str) -> Any:
    """The loras of one text field: what its JSON says, or the text itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text


def _number(text: str) -> float | str:
    try:
        return float(text) if len(text) <= 30 else text
    except ValueError:
        return text
