"""Picture files that cost processor time: each was measured in seconds or hours before its bound."""

from __future__ import annotations

import random
import struct
import time
import zlib
from io import BytesIO

import pytest
from PIL import Image, ImageCms

from server.errors import BadImage, DarkroomError
from server.inputs import png as png_reader
from server.inputs.base64_text import decode_base64
from server.inputs.decode import Decoded, ImageLimits, decode_image

LIMITS = ImageLimits(max_bytes=20 * 1024 * 1024, max_pixels=50_000_000)
MIB = 1024 * 1024


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*, before: bytes = b"", after: bytes = b"", width: int = 2, height: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(height * (width + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND")


def jpeg(size: tuple[int, int] = (64, 64), *, progressive: bool = False) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, (9, 99, 200)).save(out, "JPEG", progressive=progressive, subsampling=0)
    return out.getvalue()


def within(seconds: float, data: bytes) -> Decoded | DarkroomError:
    started = time.thread_time()
    try:
        return decode_image(data, limits=LIMITS, param="image")
    except DarkroomError as error:
        return error
    finally:
        assert time.thread_time() - started < seconds


def breaking_off(expanded: int) -> bytes:
    """A zlib stream that expands so far and then is not zlib any more."""
    deflater = zlib.compressobj(9)
    return deflater.compress(bytes(expanded)) + deflater.flush(zlib.Z_FULL_FLUSH) + b"\x07\xff\xff"


@pytest.mark.parametrize("before", [True, False], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("expanded", [100, 16_000, 1_000_000])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0en\0Kommentar\0"), (b"iCCP", b"name\0\0")],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_streams_that_break_off_count_as_metadata(kind: bytes, name: bytes, expanded: int, before: bool) -> None:
    """Two seconds a MiB: what a stream had expanded to was not counted if its end was not zlib."""
    one = chunk(kind, name + breaking_off(expanded))
    many = one * min(19 * MIB // len(one), 60_000)
    error = within(0.5, png(before=many) if before else png(after=many))
    assert isinstance(error, BadImage)
    assert "metadata that expands too far" in error.message


def test_streams_of_blocks_that_hold_nothing_count_by_their_bytes() -> None:
    """A second for 20 MiB that expand to nothing."""
    empty = b"\x78\x9c" + b"\0\0\0\xff\xff" * (4 * MIB)
    error = within(0.5, png(before=chunk(b"zTXt", b"a\0\0" + empty[: 19 * MIB])))
    assert isinstance(error, BadImage)
    assert "metadata that expands too far" in error.message


def test_a_stream_that_breaks_off_at_once_is_no_reason_to_refuse() -> None:
    notes = chunk(b"zTXt", b"a\0\0" + b"\x78\x9c\x07") * 20 + chunk(b"zTXt", b"a\0\0" + breaking_off(100_000))
    assert isinstance(within(0.5, png(before=notes)), Decoded)


def test_what_a_whole_stream_holds_is_read_to_its_end() -> None:
    """However its input and output fall into pieces: the profile is whole or it is none."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for padding in (0, 16_384 - len(profile), 500_000):
        padded = profile + random.Random(padding).randbytes(padding)
        out = BytesIO()
        Image.new("RGB", (1, 1)).save(out, "PNG", icc_profile=bytes(padded))
        assert png_reader.read(out.getvalue()).icc == bytes(padded)


@pytest.mark.parametrize("where", ["head", "scan", "end", "segments"])
def test_runs_of_fill_bytes_in_a_jpeg(where: str) -> None:
    """100 KB held the interpreter for 50 s, and time grew with the square: each byte of a run began a search."""
    run = b"\xff" * (16 * MIB)
    whole = jpeg()
    data = {
        "head": b"\xff\xd8" + run,
        "scan": whole[:-2] + run + b"\0" + whole[-2:],
        "end": whole[:-2] + run,
        "segments": whole[:2] + run + b"\0" + whole[2:],
    }[where]
    within(4, data)


@pytest.mark.parametrize("marker", [b"\xff\xd0", b"\xff\x00", b"\xff\xff\x00"], ids=["restarts", "stuffing", "fill"])
def test_millions_of_marks_in_a_scan(marker: bytes) -> None:
    whole = jpeg()
    within(4, whole[:-2] + marker * (16 * MIB // len(marker)) + whole[-2:])


def test_scans_are_bounded_by_the_pixels_they_pass_over() -> None:
    """A hundred scans of 50 megapixels are 3.5 s for half a MiB; of a small picture they are nothing."""
    large, small = jpeg((7071, 7071), progressive=True), jpeg((640, 480), progressive=True)

    def repeated(data: bytes) -> bytes:
        last = data.rindex(b"\xff\xda")
        return data[:-2] + data[last:-2] * 80 + data[-2:]

    error = within(0.2, repeated(large))
    assert isinstance(error, BadImage)
    assert "more scans than its size allows" in error.message
    assert isinstance(within(2, repeated(small)), Decoded)
    assert isinstance(within(10, large), Decoded), "the encoder's own ten scans are no reason to refuse"


def test_a_picture_one_pixel_wide_and_millions_tall() -> None:
    """Two seconds and 1.4 GB for half a MiB: rows cost, not only pixels."""
    error = within(0.2, png(width=1, height=49_000_000))
    assert isinstance(error, BadImage)
    assert "side of more than 65535 pixels" in error.message
    assert isinstance(within(2, png(width=65_535, height=3)), Decoded)


def test_base64_with_a_letter_beyond_ascii_is_refused_at_once() -> None:
    """1.3 s for 26 MiB, during which nothing else ran."""
    text = "A" * (26 * MIB) + "é"
    started = time.thread_time()
    with pytest.raises(BadImage, match="not valid base64"):
        decode_base64(text, max_bytes=LIMITS.max_bytes, param="image")
    assert time.thread_time() - started < 0.4


def with_tag(name: bytes, body: bytes) -> bytes:
    """The sRGB profile with one tag more, under a description that is not sRGB's."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    count = int.from_bytes(plain[128:132])
    entries = [struct.unpack_from(">4sII", plain, 132 + 12 * index) for index in range(count)]
    parts = [(key, plain[start : start + size]) for key, start, size in entries if key != b"desc"]
    words = "x".encode("utf-16be")
    text = b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(words), 28) + words
    parts += [(b"desc", text), (name, body)]
    table, data = b"", b""
    for key, part in parts:
        table += struct.pack(">4sII", key, 132 + 12 * len(parts) + len(data), len(part))
        data += part + bytes(-len(part) % 4)
    head = b"\x04\x30".join((plain[4:8], plain[10:128]))
    profile = head + struct.pack(">I", len(parts)) + table + data
    return struct.pack(">I", len(profile) + 4) + profile


def test_a_profile_that_is_a_program_is_ignored() -> None:
    """Its elements are computed for every corner of a table: 14,000 of them held the interpreter for eight seconds."""
    count = 14_000
    element = b"matf" + bytes(4) + struct.pack(">HH12f", 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    places = struct.pack(">II", 16 + 8 * count, len(element)) * count
    program = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, count) + places + element
    out = BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 60)).save(out, "PNG", icc_profile=with_tag(b"D2B0", program))
    shown = within(1, out.getvalue())
    assert isinstance(shown, Decoded)
    assert shown.rgb.data[:3] == bytes([200, 30, 60])
