"""Pictures as agents are shown them: within what a conversation bears.

Knows bytes, sides and formats; knows nothing of tools. Programs that run agents drop an answer of more than a
mebibyte, and models see no more than about 1,568 pixels of a side. The whole picture is behind its URL.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

MAX_SIDE: Final = 1568  # pixels
MAX_BYTES: Final = 640 * 1024  # of all pictures of one answer; in base64 853 KiB, which leaves room for words
_QUALITIES: Final = (90, 75, 60)  # of JPEG
_SHRINK: Final = 0.8  # of the sides, where no quality is small enough
_MIN_SIDE: Final = 64  # pixels; smaller ones show nothing


@dataclass(frozen=True)
class Shown:
    """One picture of an answer. ``note``: what was done to it; empty where it is the file itself."""

    data: bytes
    mime: str
    note: str = ""


def show(data: bytes, format_: str, *, max_bytes: int) -> Shown:
    """The picture, made smaller where it has more than ``max_bytes`` or MAX_SIDE pixels a side. Takes a moment.

    ``format_``: png, jpeg or webp, as the file is. Raises OSError or ValueError for what is no picture.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
        if len(data) <= max_bytes and max(opened.size) <= MAX_SIDE:
            return Shown(data, f"image/{format_}")
        transparent = "A" in opened.getbands()
        picture = opened.convert("RGBA" if transparent else "RGB")
    side = min(MAX_SIDE, max(picture.size))
    while True:
        smaller = picture.copy()
        smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in (None,) if transparent else _QUALITIES:
            small = _encoded(smaller, quality)
            if len(small) <= max_bytes or (side <= _MIN_SIDE and quality in (None, _QUALITIES[-1])):
                mime = "image/png" if quality is None else "image/jpeg"
                return Shown(small, mime, f"shown here as a {mime[6:]} of {smaller.width}x{smaller.height}")
        side = max(_MIN_SIDE, int(side * _SHRINK))


def _encoded(picture: object, quality: int | None) -> bytes:
    """JPEG of this quality; PNG, which has transparency, without one."""
    from PIL import Image

    assert isinstance(picture, Image.Image)
    out = io.BytesIO()
    if quality is None:
        picture.save(out, "PNG", optimize=True)
    else:
        picture.save(out, "JPEG", quality=quality)
    return out.getvalue()
