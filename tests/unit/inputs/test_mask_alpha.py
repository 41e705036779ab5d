"""Masks whose alpha channel is noise: black and white is then what they say."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from pipelines.spec import Pixels
from server.errors import BadImage
from server.inputs.decode import decode_mask
from tests.unit.inputs.picture_files import GREY, LIMITS, encoded, png

SIDE = 64


def black_and_white(alpha: np.ndarray) -> Image.Image:
    """A mask whose right half is white, under this alpha channel."""
    grey = np.zeros((SIDE, SIDE), np.uint8)
    grey[:, SIDE // 2 :] = 255
    image = Image.fromarray(grey).convert("RGB")
    image.putalpha(Image.fromarray(alpha))
    return image


def read(image: Image.Image, format: str = "PNG", **options: bool) -> np.ndarray:
    decoded = decode_mask(encoded(image, format, **options), limits=LIMITS, param="mask")
    assert isinstance(decoded, Pixels)
    return np.frombuffer(decoded.data, np.uint8).reshape(SIDE, SIDE)


def opaque_but(**changed: int) -> np.ndarray:
    """Opaque, but for the pixels ``x_y=level``."""
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    for where, level in changed.items():
        _, x, y = where.split("_")
        alpha[int(y), int(x)] = level
    return alpha


NOISY = {
    "254 everywhere": np.full((SIDE, SIDE), 254, np.uint8),
    "243 everywhere": np.full((SIDE, SIDE), 243, np.uint8),
    "128 everywhere": np.full((SIDE, SIDE), 128, np.uint8),
    "one pixel 254": opaque_but(at_3_3=254),
    "one pixel transparent": opaque_but(at_3_3=0),
    "a few strays": opaque_but(at_3_3=0, at_60_3=120, at_20_40=200, at_63_63=0, at_40_40=1),
    "noise": np.random.default_rng(1).integers(244, 256, (SIDE, SIDE)).astype(np.uint8),
}


@pytest.mark.parametrize("alpha", NOISY.values(), ids=NOISY)
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_white_is_repainted_under_alpha_that_is_noise(alpha: np.ndarray, format: str, mode: str) -> None:
    """It was read as an alpha mask: the white part was kept, and what little was not opaque repainted."""
    image = black_and_white(alpha)
    if format == "PNG":
        image = image.convert(mode)
    mask = read(image, format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    assert (mask[:, : SIDE // 2] == 0).all()
    assert (mask[:, SIDE // 2 :] == 255).all()


def test_transparent_palette_entries_that_hardly_appear_are_noise_too() -> None:
    image = black_and_white(opaque_but()).convert("L").convert("P")
    image.putpixel((3, 3), 128)
    mask = decode_mask(encoded(image, "PNG", transparency=128), limits=LIMITS, param="mask")
    assert mask.data.count(255) == SIDE * SIDE // 2


@pytest.mark.parametrize("level", [0, 3, 12])
def test_a_spot_that_is_transparent_is_a_mask_whatever_lies_under_it(level: int) -> None:
    alpha = opaque_but()
    alpha[10:13, 10:13] = level
    mask = read(black_and_white(alpha))
    assert (mask[10:13, 10:13] == 255).all()
    assert mask.sum() == 9 * 255


def test_a_mask_that_is_wholly_transparent_repaints_everything() -> None:
    assert (read(black_and_white(np.zeros((SIDE, SIDE), np.uint8))) == 255).all()


def test_a_photograph_with_stray_pixels_is_no_black_and_white_mask() -> None:
    image = Image.effect_noise((SIDE, SIDE), 40).convert("RGB")
    image.putalpha(Image.fromarray(opaque_but(at_3_3=0)))
    mask = read(image)
    assert mask[3, 3] == 255
    assert mask.sum() == 255


def test_noise_beside_holes_neither_repaints_nor_keeps() -> None:
    """A lossy encoder's 2 and 253: what is kept must come back pixel for pixel, what is not must be drawn in full."""
    alpha = np.full((SIDE, SIDE), 253, np.uint8)
    alpha[20:40, 20:40] = 2
    mask = read(black_and_white(alpha))
    assert set(np.unique(mask)) == {0, 255}
    assert (mask == 255).sum() == 400


@pytest.mark.parametrize("white", [1, 2, 12])
def test_a_mask_of_zeros_and_ones_is_refused(white: int) -> None:
    """Arrays of 0 and 1 were saved as they were: all counted as black, and the picture came back as it had been."""
    half = np.zeros((SIDE, SIDE), np.uint8)
    half[:, SIDE // 2 :] = white
    with pytest.raises(BadImage, match="counts as black") as caught:
        read(Image.fromarray(half))
    assert caught.value.param == "mask"
    assert read(Image.fromarray(half * 0)).max() == 0  # black all over says nothing else
    assert read(Image.fromarray(half * (255 // white))).max() == 255


def test_a_mask_of_0_and_255_in_16_bits_is_refused() -> None:
    """Of such samples the high bytes are all 0: the mask covered nothing, and nobody was told."""
    rows = [struct.pack(f">{SIDE}H", *([0] * (SIDE // 2) + [255] * (SIDE // 2)))] * SIDE
    with pytest.raises(BadImage, match="counts as black"):
        decode_mask(png(SIDE, SIDE, GREY, rows, depth=16), limits=LIMITS, param="mask")
