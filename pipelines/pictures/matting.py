"""Cutting an object from the flat ground that it was drawn on: alpha with soft edges, colours freed of the ground.

Knows arithmetic on pictures; no torch, no model. The ground is what the border shows, as a plane of colour; what is
cut is the part of it that hangs together with the border, so that a white eye on a white ground stays. In the band
where object and ground mix, a pixel is C = α·F + (1 − α)·B (Porter and Duff 1984), with B from the plane and F from
the nearest pixels that are object alone (as in Smith and Blinn 1996, with both colours known).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

FLAT_GROUND = "flat-ground"

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

_MIN_TOLERANCE = 14.0  # of 255, as a distance in RGB: what codecs and decoders leave of a flat colour
_MAX_TOLERANCE = 40.0
_FIRST_TOLERANCE = 90.0  # from the border's middle colour, before its slope is known
_FLAT_SHARE = 0.5  # of the border must agree on one plane of colour, or there is no ground to cut
_REFITS = 4
_SWEEPS = 64  # each follows the ground round one more corner


def cut_out(image: Image.Image) -> Image.Image:
    """``image`` without its ground, as RGBA. Opaque all over where the border shows no flat ground."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    found = _ground(pixels)
    if found is None:
        return image.convert("RGBA")
    ground, tolerance = found
    distance = np.sqrt(((pixels - ground) ** 2).sum(axis=-1))
    outside = _from_border(distance < tolerance)
    alpha, colours = _unmix(pixels, ground, outside, _band_width(image))
    return Image.fromarray(np.dstack([colours, alpha * 255]).round().clip(0, 255).astype(np.uint8))


def _band_width(image: Image.Image) -> int:
    """How many pixels an edge may be soft over."""
    return max(2, min(image.size) // 160)


def _ground(pixels: Floats) -> tuple[Floats, float] | None:
    """The ground's colour at every pixel, and how far from it is still ground; None if the border is not flat."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    plane = np.stack([np.ones_like(x), x / width - 0.5, y / height - 0.5], axis=-1)
    frame = np.zeros((height, width), dtype=bool)
    rim = max(1, min(height, width) // 64)
    frame[:rim] = frame[-rim:] = frame[:, :rim] = frame[:, -rim:] = True
    where, colours = plane[frame], pixels[frame]
    off = np.sqrt(((colours - np.median(colours, axis=0)) ** 2).sum(axis=-1))
    tolerance = _FIRST_TOLERANCE
    for _ in range(_REFITS):
        good = off < tolerance
        if good.mean() < _FLAT_SHARE:
            return None
        fitted, *_ = np.linalg.lstsq(where[good], colours[good], rcond=None)
        off = np.sqrt(((colours - where @ fitted) ** 2).sum(axis=-1))
        tolerance = float(np.clip(4 * np.median(off[good]), _MIN_TOLERANCE, _MAX_TOLERANCE))
    return (plane @ fitted).astype(np.float32), tolerance


def _from_border(flat: Flags) -> Flags:
    """The part of ``flat`` that hangs together with the border."""
    reached = np.zeros_like(flat)
    reached[0], reached[-1], reached[:, 0], reached[:, -1] = flat[0], flat[-1], flat[:, 0], flat[:, -1]
    for _ in range(_SWEEPS):
        grown = _along_rows(flat, _along_rows(flat.T, reached.T).T)
        if (grown == reached).all():
            break
        reached = grown
    return reached


def _along_rows(flat: Flags, reached: Flags) -> Flags:
    """Every run of ``flat`` within a row, whole, if any of it was reached."""
    starts = np.ones_like(flat)
    starts[:, 1:] = flat[:, 1:] != flat[:, :-1]
    runs = starts.ravel().cumsum()  # a number for each run
    touched = np.zeros(int(runs[-1]) + 1, dtype=bool)
    touched[runs[reached.ravel()]] = True
    whole: Flags = touched[runs].reshape(flat.shape) & flat
    return whole


def _unmix(pixels: Floats, ground: Floats, outside: Flags, band: int) -> tuple[Floats, Floats]:
    """Alpha, and the object's own colours, of every pixel."""
    solid = ~_grow(outside, band)
    # The object's colour near each pixel: the mean of solid pixels around, from close by if there are any.
    near = np.zeros_like(pixels)
    known = np.zeros(outside.shape, dtype=bool)
    for radius in (band, 2 * band, 4 * band):
        share = _blur(solid.astype(np.float32), radius)
        fresh = ~known & (share > 1e-3)
        for channel in range(3):
            blurred = _blur(pixels[..., channel] * solid, radius)
            near[..., channel][fresh] = blurred[fresh] / share[fresh]
        known |= fresh
    towards = near - ground
    length = (towards**2).sum(axis=-1)
    mixed = ((pixels - ground) * towards).sum(axis=-1) / np.maximum(length, 1.0)
    mixed = np.where(known & (length > _MIN_TOLERANCE**2), mixed.clip(0, 1), 1.0)
    alpha = np.where(outside, 0.0, np.where(solid, 1.0, mixed)).astype(np.float32)
    share = np.maximum(alpha, 0.05)[..., None]
    freed = (pixels - (1 - alpha[..., None]) * ground) / share
    # Where little of the object shows, its colour is a guess: its neighbours' is the better one.
    trust = alpha[..., None].clip(0, 1)
    blended = trust * freed.clip(0, 255) + (1 - trust) * near
    colours = np.where(solid[..., None] | ~known[..., None], pixels, blended)
    return alpha, np.where(outside[..., None], near, colours).astype(np.float32)


def _grow(flags: Flags, radius: int) -> Flags:
    wide = Image.fromarray(flags.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(radius))
    grown: Flags = np.asarray(wide) > 0
    return grown


def _blur(values: Floats, radius: int) -> Floats:
    """The mean over squares of 2·radius + 1 pixels; beyond the edge the edge goes on."""
    padded = np.pad(values, ((radius + 1, radius), (radius + 1, radius)), mode="edge").astype(np.float64)
    sums = padded.cumsum(axis=0).cumsum(axis=1)
    size = 2 * radius + 1
    total = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    mean: Floats = (total / size**2).astype(np.float32)
    return mean
