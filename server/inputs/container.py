"""What a picture file says about itself, read without any decoder.

Knows the names that png, jpeg and webp readers share; knows nothing of pixels, limits or errors on the
wire. A reader walks its file's parts, refuses what is animated, torn or swollen, and keeps a *lean* copy:
only the parts that draw pixels. Pillow is given the lean copy, so that its parsers of text, EXIF, XMP and
multi-picture records never see a client's bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

MAX_PARTS = 65_536  # chunks or segments; each costs a turn of a Python loop
MAX_INFLATED = 1024 * 1024  # bytes that all compressed metadata of one file may expand to


@dataclass(frozen=True)
class Container:
    """One still picture's frame of reference."""

    format: Literal["PNG", "JPEG", "WEBP"]
    width: int  # pixels, as the header claims; decode.py compares it with the decoder's
    height: int
    lean: bytes  # the file without metadata
    exif: bytes | None = None  # a TIFF structure
    icc: bytes | None = None
    grey: bool = False  # PNG only: colour type 0 or 4
    depth: int = 8  # PNG only: bits a sample
    transparency: bytes | None = None  # PNG only: the tRNS chunk, which is not in the lean copy


class MalformedError(Exception):
    """The file cannot or may not be decoded. The text completes "the picture …" and holds no input."""


ANIMATED = "is animated; send a single still frame"
TRUNCATED = "is incomplete: the file ends before the picture does"
DAMAGED = "is damaged"
SWOLLEN = "carries metadata that expands too far"


class Inflater:
    """Expands compressed metadata, all of one file together within MAX_INFLATED."""

    def __init__(self) -> None:
        self._left = MAX_INFLATED

    def __call__(self, data: bytes) -> bytes | None:
        """The expanded bytes; None if they are not a whole zlib stream. Refuses a bomb."""
        inflater = zlib.decompressobj()
        try:
            out = inflater.decompress(data, self._left + 1)
        except zlib.error:
            return None
        if len(out) > self._left:
            raise MalformedError(SWOLLEN)
        self._left -= len(out)
        return out if inflater.eof else None
