"""The part of a picture that fills a size lies within the picture."""

from __future__ import annotations

import itertools

import pytest
from PIL import Image

from pipelines.pictures.fitting import cover, cover_box
from pipelines.pictures.masks import cover_mask


def test_no_box_sticks_out_of_its_picture() -> None:
    """Sources of some sizes were a 500: a division came out a hair larger than the picture."""
    sides = (1, 49, 257, 333, 640, 999, 1023, 3000, 4032, 7071, 65_535)
    for width, height, wide, tall in itertools.product(sides, sides, (128, 256, 768, 1024, 1536), (128, 512, 1792)):
        left, top, right, bottom = cover_box((width, height), wide, tall)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@pytest.mark.parametrize("size", [(7071, 7), (7, 7071), (7071, 7071)])
def test_such_pictures_and_masks_are_brought_to_their_size(size: tuple[int, int]) -> None:
    assert cover(Image.new("L", size), 256, 256).size == (256, 256)
    assert cover_mask(Image.new("L", size), 256, 256).size == (256, 256)
