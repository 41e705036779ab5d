"""Base64 text → bytes, strictly.

Knows bare base64 and ``data:`` URLs; knows nothing of pictures. Only the standard alphabet with its padding,
with line breaks tolerated. The length is checked before anything is decoded.
"""

from __future__ import annotations

import binascii

from server.errors import BadImage, TooLarge

_MAX_HEADER = 256  # characters of a data: URL before its comma
_NO_BREAKS = {ord("\r"): None, ord("\n"): None}


def decode_base64(text: str, *, max_bytes: int, param: str) -> bytes:
    """Decode bare base64 or a ``data:…;base64,`` URL of at most ``max_bytes`` decoded bytes."""
    too_large = TooLarge(f"{param}: a picture may have at most {max_bytes} bytes.", param=param)
    bad = BadImage(
        f"{param}: not valid base64. Send a URL, a data: URL with ;base64, or standard padded base64.",
        param=param,
    )
    payload = text
    if text[:5].lower() == "data:":
        comma = text.find(",", 0, _MAX_HEADER)
        if comma < 0 or not text[:comma].lower().endswith(";base64"):
            raise bad
        payload = text[comma + 1 :]
    most = -(-max_bytes // 3) * 4
    if len(payload) > most + most // 16 + 4:  # a line break of two characters in every 64 is the worst in use
        raise too_large
    if not payload.isascii():  # which the translation would take a hundred times as long to find
        raise bad
    payload = payload.translate(_NO_BREAKS)
    if not payload or len(payload) % 4 or payload.endswith("==="):  # which Python's strict mode lets pass
        raise bad
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:  # binascii.Error
        raise bad from None
    if len(data) > max_bytes:
        raise too_large
    return data
