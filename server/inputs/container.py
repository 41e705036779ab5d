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
MAX_SIDE = 65_535  # pixels, as JPEG has it; rows cost memory and time of their own, however short they are

_STEP = 16 * 1024  # bytes expanded at a time
_MAX_RATIO = 1032  # bytes that one byte of zlib can expand to


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
    ended: bool = True  # false for a JPEG without its end marker
    depth: int = 8  # PNG only: bits a sample
    transparency: bytes | None = None  # PNG only: the tRNS chunk, which is not in the lean copy


class MalformedError(Exception):
    """The file cannot or may not be decoded. The text completes "the picture …" and holds no input."""


ANIMATED = "is animated; send a single still frame"
TRUNCATED = "is incomplete: the file ends before the picture does"
DAMAGED = "is damaged"
SWOLLEN = "carries metadata that expands too far"


class Inflater:
    """Expands compressed metadata, all of one file together within MAX_INFLATED.

    What a stream expands to before it breaks off counts like the rest. So do the bytes that are read: they may be
    blocks that hold nothing.
    """

    def __init__(self) -> None:
        self._left = MAX_INFLATED  # bytes to expand to
        self._unread = MAX_INFLATED + _STEP  # bytes to read; no honest stream is much longer than what it holds

    def __call__(self, data: bytes) -> bytes | None:
        """The expanded bytes; None if they are not a whole zlib stream. Refuses a bomb."""
        inflater = zlib.decompressobj()
        out: list[bytes] = []
        for start in range(0, len(data), _STEP):
            rest, piece = data[start : start + _STEP], b""
            self._unread -= len(rest)
            if self._unread < 0:
                raise MalformedError(SWOLLEN)
            while (rest or len(piece) == _STEP) and not inflater.eof:
                try:
                    piece = inflater.decompress(rest, _STEP)
                except zlib.error:
                    self._spend(min(_STEP, _MAX_RATIO * len(rest)))  # what it had expanded is not told
                    return None
                self._spend(len(piece))
                out.append(piece)
                rest = inflater.unconsumed_tail
            if inflater.eof:
                return b"".join(out)
        return None

    def _spend(self, expanded: int) -> None:
        self._left -= expanded
        if self._left < 0:
            raise MalformedError(SWOLLEN)
