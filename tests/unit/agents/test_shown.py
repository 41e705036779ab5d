"""Pictures as agents are shown them: as they are where they are small, smaller where they are not."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from server.agents.shown import MAX_SIDE, show
from tests.pictures import noise, opened, png


def test_a_small_picture_is_the_file_itself() -> None:
    file = png(noise(64, 48))
    shown = show(file, "png", max_bytes=len(file))
    assert (shown.data, shown.mime, shown.note) == (file, "image/png", "")


@pytest.mark.parametrize("max_bytes", [200_000, 20_000, 3_000])
def test_a_picture_of_too_many_bytes_becomes_a_jpeg_within_them(max_bytes: int) -> None:
    file = png(noise(640, 480))
    assert len(file) > max_bytes
    shown = show(file, "png", max_bytes=max_bytes)
    small = opened(shown.data)
    assert len(shown.data) <= max_bytes
    assert (small.format, shown.mime) == ("JPEG", "image/jpeg")
    assert abs(small.width / small.height - 640 / 480) < 0.05
    assert shown.note == f"shown here as a jpeg of {small.width}x{small.height}"


def test_a_picture_of_too_many_pixels_is_brought_to_what_models_see() -> None:
    flat = png(Image.new("RGB", (2048, 1024), "red"))
    shown = show(flat, "png", max_bytes=10**6)
    assert opened(shown.data).size == (MAX_SIDE, MAX_SIDE // 2)


def test_what_is_transparent_stays_so() -> None:
    picture = noise(600, 600).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((600, 600)))
    shown = show(png(picture), "png", max_bytes=60_000)
    small = opened(shown.data)
    assert (shown.mime, small.mode) == ("image/png", "RGBA")
    assert len(shown.data) <= 60_000
    assert small.getchannel("A").getextrema() == pytest.approx((0, 255), abs=8)


def test_webp_is_read_too() -> None:
    out = io.BytesIO()
    noise(640, 480).save(out, "WEBP", quality=95)
    assert opened(show(out.getvalue(), "webp", max_bytes=20_000).data).format == "JPEG"


def test_it_ends_though_nothing_is_small_enough() -> None:
    assert opened(show(png(noise(640, 480)), "png", max_bytes=10).data).width == 64


@pytest.mark.parametrize("data", [b"", b"nothing", b"GIF89a" + bytes(100)])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises((OSError, ValueError)):
        show(data, "png", max_bytes=1000)
