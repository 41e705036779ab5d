"""Reads a PNG's chunks.

Knows the chunk layout, the checksums and which chunks draw pixels; decodes none. Transparency (tRNS) is
handed over raw and left out of the lean copy: Pillow compares it with samples it has already scaled.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from server.inputs.container import (
    ANIMATED,
    DAMAGED,
    MAX_PARTS,
    TRUNCATED,
    Container,
    Inflater,
    MalformedError,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DRAWS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_ANIMATES = {b"acTL", b"fcTL", b"fdAT"}
_PALETTE = 3  # colour type
_GREY = {0, 4}  # colour types


@dataclass
class _Found:
    lean: list[bytes] = field(default_factory=lambda: [SIGNATURE])
    header: bytes = b""
    palette: bool = False
    pixels: bool = False
    ended: bool = False
    transparency: bytes | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    inflate: Inflater = field(default_factory=Inflater)


def read(data: bytes) -> Container:
    found = _Found()
    offset = len(SIGNATURE)
    for _ in range(MAX_PARTS):
        length = int.from_bytes(data[offset : offset + 4])
        end = offset + 12 + length
        if end > len(data):
            raise MalformedError(TRUNCATED)
        kind = data[offset + 4 : offset + 8]
        if not found.header and kind != b"IHDR":
            raise MalformedError(DAMAGED)
        if kind in _ANIMATES:
            raise MalformedError(ANIMATED)
        if kind in _DRAWS:
            if zlib.crc32(data[offset + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
                raise MalformedError(DAMAGED)
            found.lean.append(data[offset:end])
        _note(found, kind, data[offset + 8 : end - 4])
        if found.ended:
            return _container(found)
        offset = end
    raise MalformedError(DAMAGED)


def _note(found: _Found, kind: bytes, body: bytes) -> None:
    match kind:
        case b"IHDR":
            if found.header or len(body) != 13:
                raise MalformedError(DAMAGED)
            found.header = body
        case b"PLTE":
            found.palette = True
        case b"IDAT":
            found.pixels = True
        case b"IEND":
            found.ended = True
        case b"tRNS":
            found.transparency = body
        case b"eXIf":
            found.exif = body
        case b"iCCP":
            found.icc = found.inflate(_after_name(body)) or found.icc
        case b"zTXt":
            found.inflate(_after_name(body))
        case b"iTXt":
            _, _, rest = body.partition(b"\0")
            if rest[:1] == b"\x01":  # compressed: flag, method, language\0, translated keyword\0, text
                found.inflate(rest[2:].split(b"\0", 2)[-1])


def _after_name(body: bytes) -> bytes:
    """The zlib stream behind a name, its NUL and the compression method."""
    return body.partition(b"\0")[2][1:]


def _container(found: _Found) -> Container:
    depth, colour = found.header[8], found.header[9]
    if not found.pixels or (colour == _PALETTE and not found.palette):
        raise MalformedError(DAMAGED)
    return Container(
        format="PNG",
        width=int.from_bytes(found.header[0:4]),
        height=int.from_bytes(found.header[4:8]),
        lean=b"".join(found.lean),
        exif=found.exif,
        icc=found.icc,
        grey=colour in _GREY,
        depth=depth,
        transparency=found.transparency,
    )
