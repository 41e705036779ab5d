"""What each sample layout means, pixel by pixel."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image, ImageCms

from pipelines.spec import Pixels
from server.errors import BadImage, TooLarge
from server.inputs.decode import Decoded, ImageLimits, decode_image, decode_mask
from tests.unit.inputs.picture_files import GREY, GREY_ALPHA, LIMITS, PALETTE, RGB, RGBA, at, chunk, encoded, exif, png


def decode(data: bytes) -> Decoded:
    return decode_image(data, limits=LIMITS, param="image")


def colours(pixels: Pixels) -> list[tuple[int, ...]]:
    return [at(pixels, x, y) for y in range(pixels.height) for x in range(pixels.width)]


def grey(*values: int) -> list[tuple[int, int, int]]:
    return [(value, value, value) for value in values]


# --- layouts ---


def test_16_bit_grey_is_scaled_and_not_saturated() -> None:
    samples = list(range(0, 65536, 257))
    decoded = decode(png(256, 1, GREY, [struct.pack(">256H", *samples)], depth=16))
    assert colours(decoded.rgb) == grey(*(sample >> 8 for sample in samples))
    assert decoded.alpha is None


def test_16_bit_rgb_grey_alpha_and_rgba_keep_their_high_bytes() -> None:
    assert colours(decode(png(1, 1, RGB, [struct.pack(">3H", 0x12FF, 0x3400, 0xFFFF)], depth=16)).rgb) == [
        (0x12, 0x34, 0xFF)
    ]
    opaque = decode(png(1, 1, RGBA, [struct.pack(">4H", 0x1200, 0x3400, 0x5600, 0xFFFF)], depth=16))
    assert (colours(opaque.rgb), opaque.alpha) == ([(0x12, 0x34, 0x56)], None)
    clear = decode(png(1, 1, GREY_ALPHA, [struct.pack(">2H", 0x1200, 0x0000)], depth=16))
    assert clear.alpha is not None
    assert (colours(clear.rgb), clear.alpha.data) == (grey(255), b"\0")


@pytest.mark.parametrize(
    ("depth", "row", "expected"),
    [(1, 0b01000000, [0, 255]), (2, 0b01100000, [85, 170]), (4, 0x3C, [51, 204])],
)
def test_few_bits_are_spread_over_the_whole_range(depth: int, row: int, expected: list[int]) -> None:
    assert colours(decode(png(2, 1, GREY, [bytes([row])], depth=depth)).rgb) == grey(*expected)


def test_rgba_is_laid_on_white_and_its_alpha_kept_aside() -> None:
    decoded = decode(png(3, 1, RGBA, [bytes([200, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 128])]))
    assert colours(decoded.rgb) == [(200, 0, 0), (255, 255, 255), (127, 127, 127)]
    assert decoded.alpha == Pixels(3, 1, "L", bytes([255, 0, 128]))
    # Beside that, the colours as they are, for what is kept of the picture under a mask.
    assert decoded.rgba == Pixels(3, 1, "RGBA", bytes([200, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 128]))


def test_opaque_alpha_channel_is_no_transparency() -> None:
    assert decode(png(1, 1, RGBA, [bytes([1, 2, 3, 255])])).alpha is None
    assert decode(png(1, 1, GREY_ALPHA, [bytes([7, 255])])) == Decoded(Pixels(1, 1, "RGB", b"\7\7\7"), None)


def test_grey_with_alpha() -> None:
    decoded = decode(png(2, 1, GREY_ALPHA, [bytes([10, 255, 0, 51])]))
    assert colours(decoded.rgb) == grey(10, 204)
    assert decoded.alpha is not None
    assert decoded.alpha.data == bytes([255, 51])


def test_palette_with_transparency_of_fewer_entries_than_colours() -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])) + chunk(b"tRNS", bytes([0, 128]))
    decoded = decode(png(3, 1, PALETTE, [bytes([0, 1, 2])], before=palette))
    assert colours(decoded.rgb) == [(255, 255, 255), (127, 255, 127), (0, 0, 255)]
    assert decoded.alpha is not None
    assert decoded.alpha.data == bytes([0, 128, 255])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_transparent_grey_of_few_bits_is_compared_in_its_own_scale(depth: int) -> None:
    # Pillow compares the key 1 with samples that it has scaled to 0..255
    row = 1 << (8 - depth)  # the first pixel is 1, the second 0
    decoded = decode(png(2, 1, GREY, [bytes([row])], depth=depth, before=chunk(b"tRNS", b"\0\1")))
    assert decoded.alpha is not None
    assert decoded.alpha.data == bytes([0, 255])


def test_transparent_16_bit_samples_are_compared_in_full() -> None:
    row = struct.pack(">3H", 0x1234, 0x1235, 0x0034)
    decoded = decode(png(3, 1, GREY, [row], depth=16, before=chunk(b"tRNS", b"\x12\x34")))
    assert decoded.alpha is not None
    assert decoded.alpha.data == bytes([0, 255, 255])
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x1234, 0x5678, 0x9ABD)
    key = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    decoded = decode(png(2, 1, RGB, [row], depth=16, before=key))
    assert decoded.alpha is not None
    assert decoded.alpha.data == bytes([0, 255])
    assert colours(decoded.rgb) == [(255, 255, 255), (0x12, 0x56, 0x9A)]


def test_transparent_rgb_colour_must_match_in_every_band() -> None:
    decoded = decode(png(2, 1, RGB, [bytes([1, 2, 3, 1, 2, 4])], before=chunk(b"tRNS", b"\0\1\0\2\0\3")))
    assert decoded.alpha is not None
    assert decoded.alpha.data == bytes([0, 255])


def test_adobe_cmyk_is_not_a_negative() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    data = encoded(ink, "JPEG", quality=100)
    assert b"Adobe" in data
    red, green, blue = at(decode(data).rgb, 8, 8)
    assert red > 250
    assert green < 5
    assert blue < 5


def test_rgb_jpeg_that_its_adobe_marker_declares_untransformed() -> None:
    # without the marker libjpeg would take the bands for YCbCr: metadata may go, this may not
    data = encoded(Image.new("RGB", (16, 16), (10, 200, 30)), "JPEG", quality=100, keep_rgb=True)
    assert all(abs(a - b) <= 2 for a, b in zip(at(decode(data).rgb, 8, 8), (10, 200, 30), strict=True))


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": True, "exact": True}])
def test_webp_with_and_without_alpha(options: dict[str, bool]) -> None:
    assert colours(decode(encoded(Image.new("RGB", (3, 2), (9, 8, 7)), "WEBP", **options)).rgb) == [(9, 8, 7)] * 6
    clear = decode(encoded(Image.new("RGBA", (3, 2), (9, 8, 7, 0)), "WEBP", **options))
    assert clear.alpha is not None
    assert clear.alpha.data == bytes(6)
    assert colours(clear.rgb) == [(255, 255, 255)] * 6
    lossy = decode(encoded(Image.new("RGB", (17, 33), (90, 90, 90)), "WEBP", quality=90))
    assert (lossy.rgb.width, lossy.rgb.height) == (17, 33)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_grey_and_progressive(progressive: bool) -> None:
    data = encoded(Image.new("L", (40, 24), 77), "JPEG", quality=95, progressive=progressive)
    assert colours(decode(data).rgb) == grey(77) * 960


def test_one_pixel() -> None:
    for format in ("PNG", "JPEG", "WEBP"):
        decoded = decode(encoded(Image.new("RGB", (1, 1), "white"), format))
        assert (decoded.rgb.width, decoded.rgb.height, len(decoded.rgb.data)) == (1, 1, 3)


# --- which way is up, and what the numbers mean ---


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
        (9, [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_exif_orientation(orientation: int, expected: list[list[int]], order: str) -> None:
    rows = [bytes([1, 0, 2, 0, 3, 0]), bytes([4, 0, 5, 0, 6, 0])]
    data = png(3, 2, GREY_ALPHA, [bytes(255 if i % 2 else v for i, v in enumerate(row)) for row in rows],
               before=chunk(b"eXIf", exif(orientation, order)))  # fmt: skip
    assert colours(decode(data).rgb) == grey(*(value for row in expected for value in row))


def test_orientation_in_jpeg_and_webp_turns_alpha_too() -> None:
    tall = exif(6)
    photo = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=b"Exif\0\0" + tall)
    assert (decode(photo).rgb.width, decode(photo).rgb.height) == (4, 8)
    source = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    source.putpixel((0, 0), (0, 0, 0, 0))
    sticker = decode(encoded(source, "WEBP", lossless=True, exif=tall))
    assert sticker.alpha == Pixels(1, 2, "L", bytes([0, 255]))
    mask = decode_mask(encoded(source, "WEBP", lossless=True, exif=tall), limits=LIMITS, param="mask")
    assert mask == Pixels(1, 2, "L", bytes([255, 0]))


@pytest.mark.parametrize(
    "damaged",
    [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", exif(6)[:-8], b"\0" * 64],
)
def test_damaged_exif_is_ignored_without_a_warning(damaged: bytes) -> None:
    # Pillow warns "Corrupt EXIF data"; warnings are errors here
    data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=b"Exif\0\0" + damaged)
    assert decode(data).rgb.width == 8


def swapped_profile() -> bytes:
    """A valid RGB profile whose red and green primaries are exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile).replace(b"s\0R\0G\0B\0 \0b", b"x\0R\0G\0B\0 \0b").replace(b"\0s\0R\0G\0B", b"\0x\0R\0G\0B")


LINEAR = b"curv" + bytes(8)  # a curve without entries


def profile_with(changed: dict[bytes, bytes], name: str) -> bytes:
    """sRGB's profile with other tags, and this name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    entries = [struct.unpack(">4sII", profile[at : at + 12]) for at in range(132, 132 + 12 * profile[131], 12)]
    text = name.encode("utf-16-be")
    named = b"mluc" + struct.pack(">III4sII", 0, 1, 12, b"enUS", len(text), 28) + text
    tags = {tag: profile[start : start + size] for tag, start, size in entries} | {b"desc": named} | changed
    table, bodies = struct.pack(">I", len(tags)), b""
    for tag, body in tags.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    whole = profile[:128] + table + bodies
    return struct.pack(">I", len(whole)) + whole[4:]


def icc_chunk(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"name\0\0" + zlib.compress(profile))


def test_profile_is_converted_to_srgb_in_every_format() -> None:
    profile = swapped_profile()
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    files = [
        encoded(red, "PNG", icc_profile=profile),
        encoded(red, "WEBP", lossless=True, icc_profile=profile),
        encoded(red, "JPEG", quality=100, icc_profile=profile),
    ]
    for data in files:
        r, g, b = at(decode(data).rgb, 4, 4)
        assert r < 10
        assert g > 245
        assert b < 10


def test_profile_applies_to_the_colours_under_alpha() -> None:
    data = png(1, 1, RGBA, [bytes([255, 0, 0, 128])], before=icc_chunk(swapped_profile()))
    decoded = decode(data)
    assert all(abs(a - b) <= 1 for a, b in zip(at(decoded.rgb, 0, 0), (127, 255, 127), strict=True))


def test_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    row = bytes(range(240))
    assert decode(png(80, 1, RGB, [row], before=icc_chunk(profile))).rgb.data == row


def test_linear_light_under_the_name_of_srgb_is_converted() -> None:
    """Krita's sRGB-elle-V2-g10.icc has sRGB's primaries and no curve: by its name alone the picture came too dark."""
    named = "sRGB-elle-V2-g10.icc"
    profile = profile_with({b"rTRC": LINEAR, b"gTRC": LINEAR, b"bTRC": LINEAR}, named)
    assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile))).strip() == named
    (shade,) = colours(decode(png(1, 1, RGB, [bytes([55, 55, 55])], before=icc_chunk(profile))).rgb)
    assert all(abs(level - 128) <= 1 for level in shade)


@pytest.mark.parametrize("fault", ["garbage", "short", "wrong space", "wrong length", "torn table", "no zlib"])
def test_unusable_profile_is_ignored(fault: str) -> None:
    profile = bytearray(swapped_profile())
    match fault:
        case "garbage":
            profile = bytearray(b"\xff" * 600)
        case "short":
            profile = profile[:100]
        case "wrong space":
            profile[16:20] = b"CMYK"
        case "wrong length":
            profile[0:4] = b"\0\0\xff\xff"
        case "torn table":
            profile[128:] = b"\xff" * (len(profile) - 128)
    extra = chunk(b"iCCP", b"name\0\0garbage") if fault == "no zlib" else icc_chunk(bytes(profile))
    assert colours(decode(png(1, 1, RGB, [bytes([255, 0, 0])], before=extra)).rgb) == [(255, 0, 0)]


# --- masks ---


def test_transparent_part_of_a_mask_is_repainted() -> None:
    mask = decode_mask(png(3, 1, RGBA, [bytes([9, 9, 9, 0, 9, 9, 9, 255, 9, 9, 9, 55])]), limits=LIMITS, param="mask")
    assert mask == Pixels(3, 1, "L", bytes([255, 0, 200]))


def test_white_part_of_a_mask_without_transparency_is_repainted() -> None:
    for data in (
        png(2, 1, GREY, [bytes([0, 255])]),
        png(2, 1, RGBA, [bytes([0, 0, 0, 255, 255, 255, 255, 255])]),  # saved by an editor that always adds alpha
        png(2, 1, GREY, [bytes([0b01000000])], depth=1),
    ):
        assert decode_mask(data, limits=LIMITS, param="mask") == Pixels(2, 1, "L", bytes([0, 255]))


def test_what_jpeg_makes_of_black_and_white_is_black_and_white() -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (20, 20, 45, 45))
    decoded = decode_mask(encoded(mask, "JPEG", quality=60), limits=LIMITS, param="mask")
    assert set(decoded.data[: 64 * 8]) == {0}  # eight rows that no edge touches
    assert at(decoded, 32, 32) == (255,)
    grey = decode_mask(png(4, 1, GREY, [bytes([12, 13, 242, 243])]), limits=LIMITS, param="mask")
    assert grey.data == bytes([0, 13, 242, 255])


# --- limits and refusals ---


def test_limits_are_inclusive_and_named() -> None:
    data = png(10, 10, GREY, [bytes(10)] * 10)
    exact = ImageLimits(max_bytes=len(data), max_pixels=100)
    assert decode_image(data, limits=exact, param="image").rgb.width == 10
    with pytest.raises(TooLarge) as large:
        decode_image(data, limits=ImageLimits(len(data) - 1, 100), param="image[2]")
    with pytest.raises(BadImage, match="too many pixels; at most 99") as many:
        decode_mask(data, limits=ImageLimits(len(data), 99), param="mask")
    assert (large.value.param, many.value.param) == ("image[2]", "mask")


def test_a_picture_larger_than_pillow_warns_about_is_the_settings_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # DecompressionBombWarning starts at 89 megapixels; warnings are errors here
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    for format in ("PNG", "JPEG", "WEBP"):
        assert decode(encoded(Image.new("RGB", (10, 10)), format)).rgb.width == 10


def test_many_threads_decode_at_once() -> None:
    files = [encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "PNG") for _ in range(8)]
    alone = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decode, files * 8)) == alone * 8
