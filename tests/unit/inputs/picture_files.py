"""Picture files made by hand, so that a test knows every sample and no encoder stands between."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image

from pipelines.spec import Pixels
from server.inputs.decode import ImageLimits

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    colour: int,
    rows: list[bytes],
    *,
    depth: int = 8,
    before: bytes = b"",
    after: bytes = b"",
    end: bytes | None = None,
) -> bytes:
    """A PNG of unfiltered rows, with chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    ending = chunk(b"IEND") if end is None else end
    return SIGNATURE + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + after + ending


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def at(pixels: Pixels, x: int, y: int) -> tuple[int, ...]:
    bands = len(pixels.mode)
    start = (y * pixels.width + x) * bands
    return tuple(pixels.data[start : start + bands])


def exif(orientation: int, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "IH", 8, 1) + entry + b"\0\0\0\0"
