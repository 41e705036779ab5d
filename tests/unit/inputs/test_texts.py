"""Texts of picture files: which there are, and how little a bad file can do."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from server.errors import BadImage
from server.inputs.container import MAX_INFLATED
from server.inputs.texts import MAX_TEXT, MAX_TEXTS, read_texts
from tests.pictures import png, scene


def read(data: bytes) -> dict[str, str]:
    return read_texts(data, param="image")


def with_info(info: PngInfo) -> bytes:
    out = io.BytesIO()
    scene(8, 8).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(*chunks: bytes) -> bytes:
    plain = png(scene(8, 8))
    return plain[:33] + b"".join(chunks) + plain[33:]


def test_every_kind_of_text_chunk() -> None:
    info = PngInfo()
    info.add_text("plain", "é")
    info.add_text("packed", "a" * 1000, zip=True)
    info.add_itxt("parameters", "猫\nSeed: 1")
    info.add_itxt("packed too", "猫" * 500, zip=True)
    expected = {"plain": "é", "packed": "a" * 1000, "parameters": "猫\nSeed: 1", "packed too": "猫" * 500}
    assert read(with_info(info)) == expected


def test_a_picture_without_any() -> None:
    assert read(png(scene(8, 8))) == {}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_exif_has_a_comment_and_a_description(kind: str, order: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = '{"seed": 1}'
    exif[0x8769] = {0x9286: b"UNICODE\0" + "猫 Seed: 1".encode(order)}
    out = io.BytesIO()
    scene(8, 8).save(out, kind, exif=exif)
    assert read(out.getvalue()) == {"Description": '{"seed": 1}', "UserComment": "猫 Seed: 1"}


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x04\0\0\0WEBP"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage, match=r"^image: the picture ") as refused:
        read(data)
    assert refused.value.param == "image"


def test_a_bomb_is_refused() -> None:
    bomb = zlib.compress(bytes(2 * MAX_INFLATED))
    with pytest.raises(BadImage, match="expands too far"):
        read(with_chunks(chunk(b"zTXt", b"parameters\0\0" + bomb)))


@pytest.mark.parametrize(
    "body", [b"", b"parameters", b"parameters\0", b"parameters\0\1", b"parameters\0\0\0\0", b"\0\xff"]
)
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_a_torn_text_is_none_or_empty(kind: bytes, body: bytes) -> None:
    assert all(len(text) < 4 for text in read(with_chunks(chunk(kind, body))).values())


def test_texts_are_bounded() -> None:
    many = with_chunks(*(chunk(b"tEXt", b"%d\0x" % number) for number in range(2 * MAX_TEXTS)))
    assert len(read(many)) == MAX_TEXTS
    long = with_chunks(*(chunk(b"tEXt", b"%d\0" % number + b"x" * (MAX_TEXT // 2)) for number in range(4)))
    assert len(read(long)) == 2


@pytest.mark.parametrize(
    "tiff",
    [
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x0e\0\2\xff\xff\xff\xff\0\0\0\0" * 3,
        b"II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0",  # the folder is itself
    ],
)
def test_a_torn_exif_says_nothing(tiff: bytes) -> None:
    assert read(with_chunks(chunk(b"eXIf", tiff))) == {}
