"""Damaged and hostile picture files, made from honest ones: PNG, JPEG and WebP.

Knows the three containers' parts well enough to lie about them. Every file is made from a seed.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from typing import Any

from PIL import Image

from tests.pictures import right_half, scene

_TAGS = ("tEXt", "zTXt", "iTXt", "iCCP", "eXIf", "gAMA", "cHRM", "sRGB", "sBIT", "pHYs", "tRNS", "PLTE", "acTL", "fcTL")
_MARKERS = (0xC0, 0xC1, 0xC2, 0xC4, 0xC9, 0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0x01, 0xD0, 0xD8, 0xD9)
_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ", b"JUNK")
_BOMB = 16 << 20  # bytes that a bomb of metadata expands to
_EDGES = (0, 1, 2, 7, 255, 256, 4095, 65535, 65536, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)


@cache
def originals() -> dict[str, list[bytes]]:
    """Honest files of every kind that the decoder takes, and some that it does not."""
    colour, mask = scene(48, 40), right_half(48, 40)
    clear = colour.copy()
    clear.putalpha(mask)
    grey = colour.convert("L")
    icc = b"\0\0\x02\x0cADBE" + bytes(516)
    exif = Image.Exif()
    exif[0x0112] = 6
    files: dict[str, list[bytes]] = {
        "PNG": [
            _saved(colour, "PNG"),
            _saved(clear, "PNG"),
            _saved(mask, "PNG"),
            _saved(mask.convert("1"), "PNG"),
            _saved(grey.convert("LA"), "PNG"),
            _saved(colour.convert("P"), "PNG", transparency=3),
            _saved(colour.quantize(4), "PNG", bits=2),
            _saved(grey.convert("I;16"), "PNG"),
            _saved(colour, "PNG", icc_profile=icc, exif=exif, dpi=(300, 300)),
            _saved(clear, "PNG", compress_level=0),
            _interlaced(),
        ],
        "JPEG": [
            _saved(colour, "JPEG"),
            _saved(colour, "JPEG", progressive=True),
            _saved(colour, "JPEG", subsampling=0, quality=100),
            _saved(grey, "JPEG"),
            _saved(colour.convert("CMYK"), "JPEG"),
            _saved(colour, "JPEG", icc_profile=icc, exif=exif, comment="a"),
            _saved(colour, "JPEG", restart_marker_rows=1),
            _saved(scene(300, 200), "JPEG", progressive=True),
        ],
        "WEBP": [
            _saved(colour, "WEBP"),
            _saved(colour, "WEBP", lossless=True),
            _saved(clear, "WEBP"),
            _saved(clear, "WEBP", lossless=True, exact=True),
            _saved(colour, "WEBP", icc_profile=icc, exif=exif, xmp=b"<x/>"),
            _saved(colour, "WEBP", save_all=True, append_images=[clear.convert("RGB")], duration=50),
        ],
    }
    return files


def mutated(seed: str) -> bytes:
    """One damaged file."""
    rng = random.Random(seed)
    kind = rng.choice(("PNG", "JPEG", "WEBP"))
    data = rng.choice(originals()[kind])
    rare = rng.random()
    if rare < 0.0005:  # seconds and a gigabyte each
        return _large(data, rng, kind)
    if rare < 0.01:
        return _bombs(data, rng, kind)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation = rng.choice((_flip, _flip, _cut, _splice, _repeat, _number, _parts, _parts, _parts))
        data = mutation(data, rng, kind)
    return data


# --- of any file ---


def _flip(data: bytes, rng: random.Random, kind: str) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        if out:
            # Headers say more than pixels do.
            at = rng.randrange(min(len(out), 64)) if rng.random() < 0.3 else rng.randrange(len(out))
            out[at] = out[at] ^ (1 << rng.randrange(8)) if rng.random() < 0.7 else rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(out)


def _cut(data: bytes, rng: random.Random, kind: str) -> bytes:
    at = rng.randrange(len(data) + 1)
    if rng.random() < 0.6:
        return data[:at]
    return data[:at] + data[at + rng.choice((1, 2, 4, 100)) :]


def _splice(data: bytes, rng: random.Random, kind: str) -> bytes:
    other = rng.choice(originals()[rng.choice(("PNG", "JPEG", "WEBP")) if rng.random() < 0.3 else kind])
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _repeat(data: bytes, rng: random.Random, kind: str) -> bytes:
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.choice((1, 12, 64, 1024)))
    return data[:stop] + data[start:stop] * rng.choice((1, 3, 50, 1000)) + data[stop:]


def _number(data: bytes, rng: random.Random, kind: str) -> bytes:
    """A length, a size or a count that lies."""
    width = rng.choice((2, 4))
    order = "big" if kind != "WEBP" else "little"
    number = (rng.choice(_EDGES) & ((1 << 8 * width) - 1)).to_bytes(width, order)  # type: ignore[arg-type]
    at = rng.randrange(min(len(data), 64) + 1) if rng.random() < 0.6 else rng.randrange(len(data) + 1)
    return data[:at] + number + data[at + width :]


def _parts(data: bytes, rng: random.Random, kind: str) -> bytes:
    """Surgery on chunks and segments, with lengths and checksums that are right again."""
    split, joined, strange = {
        "PNG": (_png_chunks, _png, _strange_png),
        "JPEG": (_jpeg_segments, b"".join, _strange_jpeg),
        "WEBP": (_webp_chunks, _webp, _strange_webp),
    }[kind]
    parts: list[Any] = split(data)
    if not parts:
        return data
    at = rng.randrange(len(parts))
    choice = rng.randrange(6)
    if choice == 0:
        del parts[at]
    elif choice == 1:
        parts.insert(rng.randrange(len(parts) + 1), parts[at])
    elif choice == 2:
        rng.shuffle(parts)
    elif choice == 3:
        parts[at:at] = [strange(rng)] * rng.choice((1, 1, 2, 300))
    else:
        parts.insert(rng.choice((1, at, len(parts) - 1, len(parts))), strange(rng))
    return joined(parts)


# --- of work and of memory ---


def _bombs(data: bytes, rng: random.Random, kind: str) -> bytes:
    """Metadata, or passes over the pixels, many times: a megabyte or so of it."""
    count = rng.choice((10, 100, 1000))
    if kind == "JPEG":
        segments = _jpeg_segments(rng.choice(originals()["JPEG"][1::6]))  # progressive
        return b"".join(segments[:-1] + segments[-1:] * count)
    if kind == "WEBP":
        chunks = _webp_chunks(data)
        return _webp(chunks[:1] + [_strange_webp(rng)] * count + chunks[1:])
    name, prefix = rng.choice(((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0en\0k\0"), (b"iCCP", b"k\0\0")))
    stream = _bomb()[: rng.choice((1100, 2000, 5000, 16_000))]  # breaks off: nothing says how far it would have gone
    tail = rng.choice((b"", rng.randbytes(20)))
    chunks = _png_chunks(data)
    return _png(chunks[:1] + [(name, prefix + stream + tail)] * count + chunks[1:])


def _large(data: bytes, rng: random.Random, kind: str) -> bytes:
    """A picture that is as large as it says, or nearly: of little file and much memory."""
    width, height = rng.choice(
        ((1000, 1000), (7000, 7000), (7100, 7100), (49_000_000, 1), (1, 49_000_000), (60_000, 833))
    )
    depth, colour, bits = rng.choice(
        ((8, 2, 24), (8, 6, 32), (16, 6, 64), (1, 0, 1), (8, 3, 8), (16, 0, 16), (8, 4, 16))
    )
    row = 1 + (width * bits + 7) // 8
    packer = zlib.compressobj(1)
    rows = height if rng.random() < 0.7 else height // 2  # half of them: it ends before the picture does
    step = max(1, (1 << 20) // row)
    body = b"".join(packer.compress(bytes(row * min(step, rows - at))) for at in range(0, rows, step)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = [(b"PLTE", bytes(768))] if colour == 3 else []
    return _png([(b"IHDR", header), *palette, (b"IDAT", body), (b"IEND", b"")])


# --- PNG ---


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_chunks(data: bytes) -> list[Any]:
    found: list[Any] = []
    at = 8
    while at + 12 <= len(data) and len(found) < 5000:
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            break
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _png(chunks: list[Any]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _strange_png(rng: random.Random) -> tuple[bytes, bytes]:
    kind = rng.choice(_TAGS).encode()
    if rng.random() < 0.25:
        width, height = rng.choice(_EDGES), rng.choice(_EDGES)
        depth, colour = rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 1))
        return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, rng.choice((0, 1)))
    if rng.random() < 0.3:
        return rng.choice((b"IDAT", b"IDAT", b"fdAT")), _stream(rng)
    prefix = {b"zTXt": b"k\0\0", b"iCCP": b"k\0\0", b"iTXt": b"k\0\1\0en\0k\0", b"tEXt": b"k\0"}.get(kind, b"")
    return kind, prefix + (_stream(rng) if prefix else rng.randbytes(rng.choice((0, 1, 6, 26, 768, 3000))))


def _stream(rng: random.Random) -> bytes:
    """A zlib stream: whole, a bomb, broken off, or none."""
    choice = rng.randrange(5)
    if choice == 0:
        return zlib.compress(rng.randbytes(200))
    if choice == 1:
        return _bomb()
    if choice == 2:  # never ends, so that nothing says how far it would have gone
        return _bomb()[: rng.choice((100, 5000, -1, -4))]
    if choice == 3:
        return _bomb()[:8000] + rng.randbytes(100)
    return rng.randbytes(rng.choice((0, 1, 500)))


@cache
def _bomb() -> bytes:
    return zlib.compress(bytes(_BOMB), 9)


def _interlaced() -> bytes:
    """Adam7, which Pillow cannot write: 3 × 3 grey pixels in their passes."""
    passes = [(1, 1), (0, 0), (0, 0), (1, 1), (2, 1), (1, 2), (3, 1)]  # width, height of each
    rows = b"".join((b"\0" + bytes(range(width))) * height for width, height in passes if width)
    header = struct.pack(">IIBBBBB", 3, 3, 8, 0, 0, 0, 1)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


# --- JPEG ---


def _jpeg_segments(data: bytes) -> list[Any]:
    """The segments before the pixels, and the rest with all of them."""
    found: list[Any] = [data[:2]]
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA and len(found) < 5000:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append(data[at : at + size])
        at += size
    rest = data[at:]
    scans = rest.split(b"\xff\xda")
    return found + [b"\xff\xda" + scan for scan in scans[1:]]


def _strange_jpeg(rng: random.Random) -> bytes:
    marker = rng.choice(_MARKERS)
    body = rng.choice(
        (b"", b"Exif\0\0", b"ICC_PROFILE\0\1\2", b"Adobe\0d\0\0\0\0\2", b"MPF\0", b"http://ns.adobe.com/xap/1.0/\0")
    )
    body += rng.randbytes(rng.choice((0, 1, 15, 600, 60_000)))
    if marker in (0xC0, 0xC1, 0xC2) and rng.random() < 0.7:
        height, width = rng.choice(_EDGES[:9]) & 0xFFFF, rng.choice(_EDGES[:9]) & 0xFFFF
        count = rng.choice((1, 3, 4, 5, 255))
        body = struct.pack(">BHHB", rng.choice((8, 12)), height, width, count) + b"\1\x22\0" * count
    size = len(body) + 2 if rng.random() < 0.85 else rng.choice((0, 1, 2, 65535))
    return bytes((0xFF, marker)) + struct.pack(">H", min(size, 65535)) + body


# --- WebP ---


def _webp_chunks(data: bytes) -> list[Any]:
    found: list[Any] = []
    at = 12
    while at + 8 <= len(data) and len(found) < 5000:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return found


def _webp(chunks: list[Any]) -> bytes:
    body = b"WEBP"
    for kind, data in chunks:
        body += kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _strange_webp(rng: random.Random) -> tuple[bytes, bytes]:
    kind = rng.choice(_CHUNKS)
    if kind == b"VP8X":
        canvas = b"".join((rng.choice(_EDGES) & 0xFFFFFF).to_bytes(3, "little") for _ in range(2))
        return kind, bytes((rng.randrange(256), 0, 0, 0)) + canvas
    if kind == b"VP8L":
        return kind, b"\x2f" + rng.randbytes(rng.choice((4, 40, 400)))
    if kind == b"VP8 ":
        sizes = struct.pack("<HH", rng.choice(_EDGES[:9]) & 0xFFFF, rng.choice(_EDGES[:9]) & 0xFFFF)
        return kind, b"\x10\x02\0\x9d\x01\x2a" + sizes + rng.randbytes(60)
    return kind, rng.randbytes(rng.choice((0, 1, 16, 5000)))


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()
