"""Pixels ↔ Pillow, and bringing a picture to a size. Knows arithmetic on pictures; no torch."""

from __future__ import annotations

from PIL import Image

from pipelines.spec import Pixels


def to_pil(pixels: Pixels) -> Image.Image:
    """A Pillow image of the same bytes."""
    return Image.frombytes(pixels.mode, (pixels.width, pixels.height), pixels.data)


def to_pixels(image: Image.Image) -> Pixels:
    """The bytes of a Pillow image of mode RGB or L."""
    return Pixels(image.width, image.height, image.mode, image.tobytes())


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resample ``image`` (Lanczos) to fill ``width × height`` pixels; what sticks out is cut evenly on both sides."""
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    kept_width, kept_height = width / scale, height / scale
    left, top = (image.width - kept_width) / 2, (image.height - kept_height) / 2
    box = (left, top, left + kept_width, top + kept_height)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)
