"""Reads a WebP's chunks.

Knows the RIFF layout and where the three kinds of WebP keep their size; decodes nothing. Every size in the
file must agree, because a small canvas around a huge frame would pass a check of the canvas alone.
"""

from __future__ import annotations

from server.inputs.container import ANIMATED, DAMAGED, MAX_PARTS, TRUNCATED, Container, MalformedError

_EXIF = b"Exif\0\0"  # some writers put the JPEG prefix in front


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read(data: bytes) -> Container:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise MalformedError(TRUNCATED)
    sizes: set[tuple[int, int]] = set()
    frames = 0
    metadata: dict[bytes, bytes] = {}
    offset = 12
    for _ in range(MAX_PARTS):
        if offset + 8 > end:
            break
        kind = data[offset : offset + 4]
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        body = data[offset + 8 : offset + 8 + length]
        if len(body) < length or offset + 8 + length > end:
            raise MalformedError(TRUNCATED)
        match kind:
            case b"ANIM" | b"ANMF":
                raise MalformedError(ANIMATED)
            case b"VP8X" | b"VP8 " | b"VP8L":
                sizes.add(_size(kind, body))
                frames += kind != b"VP8X"
            case b"EXIF" | b"ICCP":
                metadata.setdefault(kind, body)
        offset += 8 + length + (length & 1)
    else:
        raise MalformedError(DAMAGED)
    if frames != 1 or len(sizes) != 1:
        raise MalformedError(DAMAGED)
    exif = metadata.get(b"EXIF", b"").removeprefix(_EXIF)
    return Container("WEBP", *sizes.pop(), lean=data[:end], exif=exif or None, icc=metadata.get(b"ICCP"))


def _size(kind: bytes, body: bytes) -> tuple[int, int]:
    if len(body) < 10 and not (kind == b"VP8L" and len(body) >= 5):
        raise MalformedError(TRUNCATED)
    if kind == b"VP8X":
        if body[0] & 0x02:
            raise MalformedError(ANIMATED)
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
