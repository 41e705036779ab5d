"""Colour profiles and orientation: what the numbers in a file mean, and which way is up.

Knows ICC headers and one EXIF tag; knows nothing of files or limits. A profile or a tag that is not valid is
ignored, never an error: the picture is then what its numbers say in sRGB.
"""

from __future__ import annotations

import struct
from io import BytesIO

from PIL import Image, ImageChops, ImageCms

MAX_PROFILE = 1024 * 1024  # bytes; printers' CMYK profiles reach 600 KB, a screen's a few hundred

_SAME = 2  # levels of 255 by which tables of one curve differ

_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
_DEVICES = {b"scnr", b"mntr", b"prtr", b"spac"}  # not links, abstract profiles or colour names
_PROGRAM = b"mpet"  # elements to compute one after another, as many as fit: a small picture took eight seconds
_ORIENTATION = 0x0112
_SHORT = 3  # EXIF type
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """An L, RGB or CMYK image as RGB in sRGB, through its profile if it has a usable one."""
    if icc is not None and _usable(icc, image.mode):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(icc))
            target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            if _is_srgb(source, target, image.mode):
                return _as_rgb(image)  # exact, and a 50-megapixel transform saved
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a profile that its header recommends and its tables do not
    return _as_rgb(image)


def _is_srgb(source: ImageCms.ImageCmsProfile, target: ImageCms.ImageCmsProfile, mode: str) -> bool:
    """Does it say so, and is it? Some have sRGB's primaries and name, and another curve: linear light, in painters'."""
    if not ImageCms.getProfileDescription(source).startswith("sRGB"):
        return False
    greys = Image.frombytes("L", (256, 1), bytes(range(256)))
    shown = ImageCms.profileToProfile(greys.convert(mode), source, target, outputMode="RGB")
    if shown is None:
        return False
    return max(ImageChops.difference(shown, greys.convert("RGB")).tobytes()) <= _SAME


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _usable(icc: bytes, mode: str) -> bool:
    return (
        128 < len(icc) <= MAX_PROFILE
        and int.from_bytes(icc[:4]) == len(icc)
        and icc[36:40] == b"acsp"
        and icc[12:16] in _DEVICES
        and icc[16:20] == _SPACES.get(mode)
        and _PROGRAM not in icc
    )


def upright(image: Image.Image, exif: bytes | None) -> Image.Image:
    """The image turned as its EXIF orientation says."""
    turn = _TURNS.get(_orientation(exif)) if exif is not None else None
    return image if turn is None else image.transpose(turn)


def _orientation(exif: bytes) -> int:
    """The orientation in the first directory, 1 if there is none.

    Pillow's own reader warns on damaged EXIF, and warnings filters are not per thread.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for index in range(count):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * index)
            if tag == _ORIENTATION:
                return int(value) if kind == _SHORT and values == 1 else 1
    except struct.error:
        pass
    return 1
