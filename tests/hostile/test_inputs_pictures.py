"""Picture files meant to hurt: bombs, exotic formats, torn and animated files, polyglots."""

from __future__ import annotations

import base64
import random
import re
import struct
import time
import zlib
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image, ImageFile

from server.errors import BadImage, DarkroomError, TooLarge
from server.inputs.base64_text import decode_base64
from server.inputs.decode import ImageLimits, decode_image, decode_mask

LIMITS = ImageLimits(max_bytes=20 * 1024 * 1024, max_pixels=50_000_000)


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int = 2, height: int = 2, *, before: bytes = b"", after: bytes = b"", idat: bytes = b"") -> bytes:
    pixels = idat or zlib.compress(bytes(height * (width + 1)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND")


def encoded(format: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    out = BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(out, format, **options)
    return out.getvalue()


def refusal(data: bytes) -> DarkroomError:
    """The refusal of this file, which never shows an address, a path or a byte of the input."""
    with pytest.raises(BadImage) as caught:
        decode_image(data, limits=LIMITS, param="image")
    error = caught.value
    assert error.param == "image"
    assert error.message.startswith("image: the picture ")
    assert not re.search(r"0x|/|\\|<|Errno|PIL|cannot identify", error.message)
    assert error.__cause__ is None
    return error


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(self: ImageFile.ImageFile) -> None:
        raise AssertionError("a decoder was started")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)


# --- bombs ---


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (12_000, 12_000), (50_000_001, 1), (2**31, 2**31)])
def test_too_many_pixels_are_refused_before_decoding(width: int, height: int) -> None:
    assert "too many pixels" in refusal(png(width, height, idat=zlib.compress(bytes(1000)))).message


@pytest.mark.usefixtures("no_decoding")
def test_jpeg_and_webp_bombs_are_refused_before_decoding() -> None:
    jpeg = bytearray(encoded("JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert "too many pixels" in refusal(bytes(jpeg)).message
    lossless = bytearray(encoded("WEBP", lossless=True))
    lossless[21:25] = b"\xff\xff\xff\x0f"
    assert "too many pixels" in refusal(bytes(lossless)).message
    lossy = bytearray(encoded("WEBP"))
    lossy[26:30] = b"\xff\x3f\xff\x3f"
    assert "too many pixels" in refusal(bytes(lossy)).message


def test_small_canvas_around_a_huge_webp_frame() -> None:
    frame = b"VP8L" + struct.pack("<I", 10) + b"\x2f\xff\xff\xff\x0f" + bytes(5)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\x07\0\0\x07\0\0"
    body = b"WEBP" + canvas + frame
    assert "damaged" in refusal(b"RIFF" + struct.pack("<I", len(body)) + body).message


def test_second_header_that_contradicts_the_first() -> None:
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    refusal(png(before=second))
    jpeg = encoded("JPEG")
    start = jpeg.index(b"\xff\xc0")
    frame = jpeg[start : start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])]
    refusal(jpeg[:start] + frame + jpeg[start:])


BOMB = zlib.compress(bytes(64 * 1024 * 1024))


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize(
    "bomb",
    [
        chunk(b"iCCP", b"name\0\0" + BOMB),
        chunk(b"zTXt", b"Comment\0\0" + BOMB),
        chunk(b"iTXt", b"Comment\0\1\0en\0Kommentar\0" + BOMB),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000))) * 200,  # harmless one by one
    ],
    ids=["iCCP", "zTXt", "iTXt", "many zTXt"],
)
def test_metadata_bombs_are_refused_before_decoding(bomb: bytes) -> None:
    started = time.process_time()
    assert "metadata that expands too far" in refusal(png(before=bomb)).message
    assert "metadata that expands too far" in refusal(png(after=bomb)).message
    assert time.process_time() - started < 5


def test_honest_metadata_is_no_reason_to_refuse() -> None:
    notes = chunk(b"tEXt", b"workflow\0" + b"{}" * 400_000) + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 9000))
    notes += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>") + chunk(b"zTXt", b"not zlib")
    assert decode_image(png(before=notes, after=notes), limits=LIMITS, param="image").rgb.width == 2


def test_jpeg_of_a_hundred_thousand_scans_is_not_decoded() -> None:
    # every scan of a progressive picture passes over all of it: 20 MB of tiny scans would take an hour
    jpeg = encoded("JPEG", progressive=True)
    start = jpeg.rindex(b"\xff\xda")
    started = time.process_time()
    refusal(jpeg[:-2] + jpeg[start:-2] * 10_000 + jpeg[-2:])
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"prVt") * 1_700_000,
        b"\xff\xd8" + b"\xff\xfe\0\2" * 5_000_000,
        b"RIFF" + struct.pack("<I", 8 * 2_600_000 + 4) + b"WEBP" + (b"JUNK" + bytes(4)) * 2_600_000,
    ],
    ids=["PNG", "JPEG", "WEBP"],
)
def test_millions_of_empty_parts(data: bytes) -> None:
    started = time.process_time()
    with pytest.raises((BadImage, TooLarge)):
        decode_image(data, limits=ImageLimits(2**40, 50_000_000), param="image")
    assert time.process_time() - started < 5


def test_too_many_bytes_is_413_even_for_garbage() -> None:
    with pytest.raises(TooLarge) as caught:
        decode_mask(bytes(1001), limits=ImageLimits(1000, 1000), param="mask")
    assert (caught.value.param, caught.value.answer.status) == ("mask", 413)


# --- formats ---


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "PPM", "ICO", "TGA", "EPS", "PDF", "JPEG2000", "DDS"])
def test_other_formats_of_pillow_are_not_opened(format: str) -> None:
    assert "not a PNG, JPEG or WebP" in refusal(encoded(format)).message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"8BPS\0\1" + bytes(40),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"GIF89a" + bytes(30),
        random.Random(1).randbytes(4096),
    ],
    ids=["empty", "NUL", "SVG", "HEIC", "PSD", "EPS", "GIF", "noise"],
)
def test_exotic_and_garbage_bytes(data: bytes) -> None:
    assert ("not a PNG, JPEG or WebP" if data else "is empty") in refusal(data).message


@pytest.mark.parametrize("prefix", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\xff\xff\xff\xffWEBP"])
def test_right_magic_then_garbage(prefix: bytes) -> None:
    for seed in range(50):
        refusal(prefix + random.Random(seed).randbytes(300))


def test_polyglots_read_as_the_picture_they_begin_with() -> None:
    tail = b"PK\x03\x04<script>alert(1)</script>" * 100
    for format in ("PNG", "JPEG", "WEBP"):
        clean = encoded(format)
        assert decode_image(clean + tail, limits=LIMITS, param="i") == decode_image(clean, limits=LIMITS, param="i")


# --- frames ---


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format: str) -> None:
    out = BytesIO()
    frames = [Image.effect_noise((16, 16), 50).convert("RGB") for _ in range(3)]
    frames[0].save(out, format, save_all=True, append_images=frames[1:], duration=50)
    assert "animated" in refusal(out.getvalue()).message


@pytest.mark.parametrize("frames", [0, 1, 0xFFFFFFFF])
def test_strange_animation_headers_neither_warn_nor_pass(frames: int) -> None:
    control = chunk(b"acTL", struct.pack(">II", frames, 0))  # Pillow warns "Invalid APNG" about 0
    assert "animated" in refusal(png(before=control)).message
    assert "animated" in refusal(png(after=control)).message


def test_photograph_with_a_second_picture_behind_it_is_its_first() -> None:
    # phones append gain maps and depth maps (MPO); the first picture is the photograph
    out = BytesIO()
    first, second = (Image.new("RGB", (16, 8), colour) for colour in ("red", "blue"))
    first.save(out, "MPO", save_all=True, append_images=[second])
    rgb = decode_image(out.getvalue(), limits=LIMITS, param="image").rgb
    assert (rgb.width, rgb.height) == (16, 8)
    assert rgb.data[0] > 250
    assert rgb.data[2] < 5


# --- torn and flipped ---


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"progressive": True, "lossless": True, "interlace": 1}])
def test_no_prefix_of_a_file_is_a_picture(format: str, options: dict[str, Any]) -> None:
    data = encoded(format, **options)
    ends = {*range(0, len(data) - 2, max(1, len(data) // 80)), len(data) - 3}
    if format == "JPEG":
        ends = {end for end in ends if end < len(data) - 16}  # only the end marker or padding would be missing
    for end in ends:
        refusal(data[:end])


def test_flipped_bytes_are_refused_or_decoded_and_never_raise_anything_else() -> None:
    rng = random.Random(7)
    for format in ("PNG", "JPEG", "WEBP"):
        clean = encoded(format, exif=Image.Exif(), icc_profile=b"x" * 300)
        for _ in range(300):
            data = bytearray(clean)
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                rgb = decode_image(bytes(data), limits=LIMITS, param="image").rgb
            except BadImage:
                continue
            assert len(rgb.data) == rgb.width * rgb.height * 3


def test_png_with_a_palette_colour_type_and_no_palette() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(6))) + chunk(b"IEND")
    assert "damaged" in refusal(data).message


# --- base64 ---


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data:",
        "data:,",
        "data:image/png,AAAA",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,AAAA,AAAA",
        "data:" + "," * 5000,
        "data:image/png;base64" + "," * 5000 + "AAAA",
        "data:" + "x" * 300 + ";base64,AAAA",
        ",,,," * 5000,
        "AAAA=",
        "AA=A",
        "=AAA",
        "A===",
        "====",
        "AA==AA==",
        "AAAA====",
        "A A A A ",
        "AAAA\tAAA",
        "AA=",
        "AAAAA",
        "A" * 20 + " " + "A" * 30 + " " + "A" * 10,  # plus signs that a form made blanks
        "A" * 20 + " " + "A" * 5 + " " + "A" * 14 + " " + "A" * 16,
        "image/png,AAAA",
        "xbase64,AAAA",
        "AA%3D%3D",
        "ＡＡＡＡ",
        "AAA\u0000",
        "AAA\ud800",
        "\n\r\n",
        "file///etc/passwd",
        "../../etc/passwd",
    ],
)
def test_lenient_base64_decoder(text: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode_base64(text, max_bytes=100_000, param="image[1]")
    assert caught.value.param == "image[1]"
    assert caught.value.message.startswith("image[1]: not valid base64")


def test_base64_length_is_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binascii.a2b_base64", lambda *_, **__: pytest.fail("decoded"))
    for text in ("!" * 2000, "A" * 2000, "data:image/png;base64," + "A" * 2000, "\n" * 2000):
        with pytest.raises(TooLarge) as caught:
            decode_base64(text, max_bytes=1000, param="image")
        assert caught.value.param == "image"


@pytest.mark.parametrize("size", [1, 2, 3, 998, 999, 1000])
def test_honest_base64(size: int) -> None:
    """Without padding, URL-safe, or with blanks and line breaks it was refused; programs of all languages send it."""
    data = random.Random(size).randbytes(size)
    bare = base64.b64encode(data).decode()
    lines = base64.encodebytes(data).decode()
    safe = base64.urlsafe_b64encode(data).decode()
    for text in (
        bare,
        lines,
        lines.replace("\n", "\r\n"),
        f"data:image/png;base64,{bare}",
        f"DATA:;BASE64,{bare}",
        f"data:image/png;charset=utf-8;base64,{bare}",
        bare.rstrip("="),
        safe,
        safe.rstrip("="),
        lines.replace("\n", " "),
        f"  {bare}\n",
        "\n\t" + lines.replace("\n", "\n\t"),
        f" data:image/png;base64, {lines}",
        f"data:image/png;base64,{quote(bare, safe='')}",
        f"data:image/png;base64,{safe.rstrip('=')}",
        f"image/png;base64,{bare}",
        f"base64,{bare}",
    ):
        assert decode_base64(text, max_bytes=1000, param="image") == data, text
    with pytest.raises(TooLarge):
        decode_base64(bare, max_bytes=size - 1, param="image")
