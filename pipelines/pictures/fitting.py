"""Pixels ↔ Pillow, and bringing a picture to a size. Knows arithmetic on pictures; no torch."""

from __future__ import annotations

from PIL import Image

from pipelines.spec import Pixels


def to_pil(pixels: Pixels) -> Image.Image:
    """A Pillow image of the same bytes."""
    return Image.frombytes(pixels.mode, (pixels.width, pixels.height), pixels.data)


def to_pixels(image: Image.Image) -> Pixels:
    """The bytes of a Pillow image of mode RGB, RGBA or L."""
    return Pixels(image.width, image.height, image.mode, image.tobytes())


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resample ``image`` (Lanczos) to fill ``width × height`` pixels; what sticks out is cut evenly on both sides."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS, box=cover_box(image.size, width, height))


def cover_box(size: tuple[int, int], width: int, height: int) -> tuple[float, float, float, float]:
    """The part of a picture of ``size`` that fills ``width × height``: left, top, right, bottom."""
    scale = max(width / size[0], height / size[1])
    # The division may come out a hair larger than the picture, and Pillow refuses a box that sticks out.
    kept_width, kept_height = min(width / scale, size[0]), min(height / scale, size[1])
    left, top = (size[0] - kept_width) / 2, (size[1] - kept_height) / 2
    return left, top, min(left + kept_width, size[0]), min(top + kept_height, size[1])
