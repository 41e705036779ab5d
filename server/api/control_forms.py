"""``controls`` in a multipart form: files and texts under names in brackets → the items that JSON would have.

Knows names of parts; knows nothing of what items may hold. ``controls[0][name]`` and ``controls[0][image]`` are of the
first item; ``controls[][name]``, as OpenAI's SDKs write arrays, of the next one that has none yet. Beside them, or
instead, ``controls`` may be the whole array as JSON.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from server.api.control_fields import MAX_CONTROLS

_PART = re.compile(r"controls\[([0-9]{0,2})\](?:\[([a-z_]{1,40})\])", re.ASCII)

Named = tuple[str, str | bytes]  # the name of a part, and its text, or its file


def is_part(name: str) -> bool:
    """Is it one of an item?"""
    return _PART.fullmatch(name) is not None


def put_together(whole: str | None, parts: Sequence[Named]) -> Any:
    """The items of a form: what its JSON text says, if it has one, and what its parts add. A text that is no array is
    handed back as it came, for who checks it."""
    items: list[Any] = []
    if whole is not None:
        try:
            said = msgspec.json.decode(whole)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return whole
        items = said if isinstance(said, list) else [said]
    for name, value in parts:
        match = _PART.fullmatch(name)
        assert match is not None
        key, text = match[2], value if isinstance(value, str) else _data_url(value)
        item = _item(items, match[1], key)
        if isinstance(item, dict):
            item.setdefault(key, text)
    return items


def _item(items: list[Any], number: str, key: str) -> Any:
    """The item with this number, or else the first that has no such key; a new one where there is none."""
    free = next((index for index, item in enumerate(items) if isinstance(item, dict) and key not in item), len(items))
    index = min(int(number), MAX_CONTROLS) if number else free  # more are refused: one more than may be is enough
    while len(items) <= index:
        items.append({})
    return items[index]


def _data_url(data: bytes) -> str:
    """A file as the text that any picture may be."""
    return f"data:;base64,{base64.b64encode(data).decode('ascii')}"
