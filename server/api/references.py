"""References: how a JSON body may name a source picture → the text that ``image`` and ``mask`` hold.

Knows the objects of OpenAI's edits, chats and answers, of AIGNE's FileUnion, Anthropic's and Gemini's; knows neither
fetching nor decoding.
"""

from __future__ import annotations

from typing import Any, Final

from server.api.spellings import is_empty
from server.errors import BadRequest

MAX_PICTURES = 256  # of one field; the setting max_input_images is checked later, and is less
_MAX_DEPTH = 4  # {"type": "image_url", "image_url": {"url": …}} has two

_URLS: Final = frozenset({"imageurl", "url", "uri"})
_BASE64: Final = frozenset({"b64json", "base64", "b64", "data", "imagebase64", "imageb64", "bytesbase64encoded"})
_HOLDERS: Final = frozenset({"source", "inlinedata", "image"})


def pictures(value: Any, name: str) -> list[str]:
    """The pictures that a field names, in order; empty ones are left out. Raises BadRequest."""
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_PICTURES:
        raise BadRequest(f"{name} has more than {MAX_PICTURES} pictures.", param=name)
    return [picture(item, name) for item in items if not names_nothing(item)]


def picture(item: Any, name: str) -> str:
    """The text of one picture. Raises BadRequest where it cannot be told, or not which."""
    found = _texts(item, name, _MAX_DEPTH)
    if len(found) > 1:
        raise BadRequest(f"{name}: one object names several pictures; send each by itself.", param=name)
    if found:
        return found.pop()
    raise BadRequest(
        f"{name}: a picture must be a URL, a data: URL or base64, as text or in"
        ' {"image_url": …}, {"b64_json": …} or {"type": "url", "url": …}.',
        param=name,
    )


def names_nothing(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Is it empty, or made of what is: [], {"image_url": null}?"""
    if is_empty(value):
        return True
    if not depth or not isinstance(value, dict | list) or "type" in value:
        return False
    inner = value.values() if isinstance(value, dict) else value
    return all(names_nothing(item, depth - 1) for item in inner)


def _texts(item: Any, name: str, depth: int) -> set[str]:
    if isinstance(item, str):
        return {item}
    if not isinstance(item, dict) or not depth:
        return set()
    if item.get("type") == "local":
        raise BadRequest(
            f'{name}: "local" names a file on your machine, which this server cannot read; send a URL or base64.',
            param=name,
        )
    found: set[str] = set()
    for key, value in item.items():
        word = key.replace("_", "").lower() if len(key) <= 32 else ""
        if names_nothing(value):
            continue
        if word.startswith("mask"):
            raise BadRequest(f"{name}: an object of it has a mask; send the mask beside {name}, as mask.", param=name)
        if word in _BASE64 and isinstance(value, str):
            # Marked as base64, so that none can be read as a URL.
            found.add(value if value.lstrip()[:5].lower() == "data:" else f"data:;base64,{value}")
        elif word in _URLS or (word in _HOLDERS and isinstance(value, dict)):
            found |= _texts(value, name, depth - 1)
    if not found and item.get("file_id") is not None:
        raise BadRequest(
            f"{name}: file_id is not offered, as this server keeps no files. Send image_url, a URL or a data: URL.",
            param=name,
        )
    return found
