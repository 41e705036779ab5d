"""Base64 text → bytes, in every form that programs write and that can be read in one way only.

Knows bare base64, ``data:`` URLs and what is left of them; knows nothing of pictures. Both alphabets are read, with
padding or without, in lines or as one. A character of no alphabet is refused, and so are blanks in the midst of a
line, which most likely were ``+`` once. The length is checked before anything is decoded.
"""

from __future__ import annotations

import binascii
import re

from server.errors import BadImage, TooLarge

_MAX_HEADER = 256  # characters of a data: URL before its comma
_MIN_LINE = 16  # characters of a line that ends with a blank instead of a line break
_HEADER = re.compile(r"(?:.*[;:])?\s*base64\s*", re.ASCII | re.IGNORECASE | re.DOTALL)
_INDENT = re.compile(r"([\r\n])[ \t]+", re.ASCII)
# The standard alphabet for the URL-safe one, without line breaks.
_STANDARD = {ord("-"): "+", ord("_"): "/", ord("\r"): None, ord("\n"): None}
_PERCENT = {"%2B": "+", "%2F": "/", "%3D": "=", "%0A": "", "%0D": "", "%2b": "+", "%2f": "/", "%3d": "=",
            "%0a": "", "%0d": ""}  # fmt: skip


def decode_base64(text: str, *, max_bytes: int, param: str) -> bytes:
    """Decode bare base64 or a ``data:…;base64,`` URL of at most ``max_bytes`` decoded bytes."""
    too_large = TooLarge(f"{param}: a picture may have at most {max_bytes} bytes.", param=param)
    bad = BadImage(f"{param}: not valid base64. Send a URL, a data: URL with ;base64, or base64.", param=param)
    payload = _payload(text)
    if payload is None:
        raise bad
    most = -(-max_bytes // 3) * 4
    # A line break of two characters in every 64 is the worst in use; in a URL, + and / of three, as rare as these.
    if len(payload) > most + most // (16 if payload is text else 8) + 4:
        raise too_large
    if not payload.isascii():  # which the translation would take a hundred times as long to find
        raise bad
    if payload is not text:
        payload = _unquoted(payload)
    payload = _in_one_line(payload.strip()).translate(_STANDARD)
    bare = payload.rstrip("=")
    missing = -len(bare) % 4
    if not bare or missing == 3 or len(payload) - len(bare) not in (0, missing):
        raise bad
    try:
        data = binascii.a2b_base64(bare + "=" * missing, strict_mode=True)
    except ValueError:  # binascii.Error
        raise bad from None
    if len(data) > max_bytes:
        raise too_large
    return data


def _payload(text: str) -> str | None:
    """What stands behind the header of a data: URL, or behind what is left of one; None where that is no base64."""
    start = text[:_MAX_HEADER]
    comma = start.rfind(",")
    if comma < 0:
        return None if start.lstrip()[:5].lower() == "data:" else text
    if not _HEADER.fullmatch(start[:comma]):
        return None
    return text[comma + 1 :]


def _unquoted(payload: str) -> str:
    """With characters that a URL may spell as %2B and the like, where one of these is near the beginning or the end."""
    if "%" in payload[:_MAX_HEADER] or "%" in payload[-_MAX_HEADER:]:
        for spelled, character in _PERCENT.items():
            payload = payload.replace(spelled, character)
    return payload


def _in_one_line(payload: str) -> str:
    """Without the blanks that are left of line breaks, or stand behind them; others stay, and are refused."""
    if "\n" in payload or "\r" in payload:
        payload = _INDENT.sub(r"\1", payload)
    line = payload.find(" ")
    if line < _MIN_LINE:
        return payload
    ends = payload[line :: line + 1]
    # The last line may be shorter. Blanks elsewhere are not at the end of a line.
    return payload.replace(" ", "") if not ends.strip(" ") and len(ends) == payload.count(" ") else payload
