"""JSON text → an object, in which every name says one thing.

Knows JSON; knows no field. A name that stands twice in an object is valid by RFC 8259, which leaves what it means to
whoever reads it: most readers take the last, some the first. Where both say the same, or one is empty, nothing is lost;
where they differ, no reader can know which was meant.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from server.api.spellings import is_empty
from server.errors import BadRequest

_MAX_DEPTH: Final = 8  # {"input": {"modelOptions": {"image": [{"image_url": {"url": …}}]}}} has six
_SHOWABLE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class _Name:
    """A name in an object. It equals no other, so that what stands under a second one of the same text is kept too."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _value_type() -> Any:
    """What a JSON text may hold, with names that are kept apart down to ``_MAX_DEPTH``."""
    found: Any = Any
    for _ in range(_MAX_DEPTH):
        found = dict[_Name, found] | list[found] | str | int | float | bool | None
    return found


_DECODER: Final = msgspec.json.Decoder(_value_type(), dec_hook=lambda _, text: _Name(text))


def read_json(body: bytes | bytearray) -> dict[str, Any]:
    """A JSON object from a body. Raises BadRequest; of what was sent that tells only a name that is there twice."""
    try:
        data = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(
            "The body is not valid JSON. NaN, Infinity, numbers beyond a double and lone surrogates are not JSON."
        ) from None
    if not isinstance(data, dict):
        raise BadRequest("The body must be a JSON object.")
    return _plain(data, _MAX_DEPTH)  # type: ignore[no-any-return]


def _plain(value: Any, depth: int) -> Any:
    """With texts for names."""
    if not depth:
        return value
    if isinstance(value, list):
        return [_plain(item, depth - 1) if isinstance(item, dict | list) else item for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, item in value.items():
        read = _plain(item, depth - 1)
        if name.text in found and not is_empty(read):
            _check_repeated(name.text, found[name.text], read)
        if name.text not in found or not is_empty(read):
            found[name.text] = read
    return found


def _check_repeated(name: str, one: Any, other: Any) -> None:
    if not is_empty(one) and not (one == other and type(one) is type(other)):
        shown = name if _SHOWABLE.fullmatch(name) else None
        raise BadRequest(f"{shown or 'A name'} is twice in the body, and differs; send one.", param=shown)
