"""Pictures say that a model made them, in all three formats, and are otherwise what they were."""

from __future__ import annotations

import io
import json
import struct
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from PIL import Image

from pipelines.pictures.images import encode
from pipelines.pictures.provenance import EDITED, MADE
from pipelines.spec import Encoding, ImageSpec, Pixels
from server.inputs.decode import ImageLimits, decode_image

FORMATS = ["png", "jpeg", "webp"]
SPEC = ImageSpec("m", "кот ☕", 40, 20, 64, 64, 8, 2.5)
EDIT = msgspec.structs.replace(SPEC, sources=(Pixels(1, 1, "RGB", b"\0\0\0"),), strength=0.5)
_IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8))


def made(image: Image.Image, spec: ImageSpec, format_: str, **options: bool) -> bytes:
    encoding = msgspec.structs.replace(Encoding(format_, 90), **options)
    return encode(image, spec, encoding, index=0, seed=7).data


def packet(data: bytes, format_: str) -> bytes | None:
    """The XMP where the format has it, read by hand: a reader of our own library may find what others do not."""
    if format_ == "png":
        found = [body for kind, body in _chunks(data[8:], ">", 12) if kind == b"iTXt" and body.startswith(b"XML:")]
        heads = [body.removeprefix(b"XML:com.adobe.xmp\0\0\0\0\0") for body in found]
    elif format_ == "webp":
        heads = [body for kind, body in _chunks(data[12:], "<", 8) if kind == b"XMP "]
        if heads:
            assert data[12:16] == b"VP8X"
            assert data[20] & 4  # the flag of XMP
    else:
        heads, at = [], 2
        while data[at + 1] != 0xDA:
            (size,) = struct.unpack(">H", data[at + 2 : at + 4])
            body = data[at + 4 : at + 2 + size]
            if data[at + 1] == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                heads.append(body.removeprefix(b"http://ns.adobe.com/xap/1.0/\0"))
            at += 2 + size
    assert len(heads) <= 1
    return heads[0] if heads else None


def _chunks(data: bytes, order: str, around: int) -> list[tuple[bytes, bytes]]:
    """Kind and body of PNG's or RIFF's chunks. ``around``: bytes of one beside its body."""
    found = []
    while len(data) >= 8:
        if order == ">":
            size, kind = struct.unpack(">I4s", data[:8])
        else:
            kind, size = struct.unpack("<4sI", data[:8])
        found.append((kind, data[8 : 8 + size]))
        data = data[size + around + (size % 2 if order == "<" else 0) :]
    return found


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("spec", "term"), [(SPEC, MADE), (EDIT, EDITED)])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_picture_says_what_made_it(
    image: Image.Image, format_: str, spec: ImageSpec, term: str, metadata: bool
) -> None:
    data = made(image, spec, format_, metadata=metadata)
    written = packet(data, format_)
    assert written is not None
    (described,) = [element.text for element in ElementTree.fromstring(written).iter(_IPTC)]
    assert described == term
    assert term.rpartition("/")[2] in ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
    opened = Image.open(io.BytesIO(data))
    opened.load()
    parameters = opened.info.get("parameters") or opened.getexif().get(0x010E)
    assert (parameters is not None) is metadata
    if parameters is not None:
        assert json.loads(parameters)["seed"] == 7


@pytest.mark.parametrize("format_", FORMATS)
def test_switched_off_there_is_none(image: Image.Image, format_: str) -> None:
    data = made(image, SPEC, format_, provenance=False)
    assert packet(data, format_) is None
    assert b"digitalsourcetype" not in data
    assert len(data) < len(made(image, SPEC, format_))


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_picture_has_the_same_bytes_and_pixels(image: Image.Image, format_: str) -> None:
    """No time and no random name is written."""
    data = made(image, SPEC, format_)
    assert data == made(image, SPEC, format_)
    bare = made(image, SPEC, format_, provenance=False, metadata=False)
    one, other = (np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in (data, bare))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_picture_of_ours_can_be_edited(image: Image.Image, format_: str) -> None:
    """What is written into it is nothing that the decoder refuses."""
    decoded = decode_image(made(image, SPEC, format_), limits=ImageLimits(1 << 20, 1 << 20), param="image")
    assert (decoded.rgb.width, decoded.rgb.height) == (40, 20)


def test_a_transparent_picture_says_it_too(image: Image.Image) -> None:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for format_ in ("png", "webp"):
        assert packet(made(image, SPEC, format_), format_) is not None
