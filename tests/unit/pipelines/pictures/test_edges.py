"""Canny's edges: thin, closed, followed from strong to weak."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from pipelines.pictures.edges import canny
from tests.pictures import scene


def edges(image: Image.Image) -> npt.NDArray[Any]:
    found = canny(image)
    assert found.size == image.size
    assert found.mode == "RGB"
    array = np.asarray(found)
    assert set(np.unique(array)) <= {0, 255}
    assert (array == array[..., :1]).all()
    return array[..., 0] > 0


def test_an_even_picture_has_none() -> None:
    assert not edges(Image.new("RGB", (40, 30), (90, 20, 200))).any()


def test_a_square_has_its_outline_one_pixel_wide() -> None:
    image = Image.new("L", (40, 40))
    ImageDraw.Draw(image).rectangle((10, 10, 29, 29), fill=255)
    found = edges(image)
    for line in (found[20], found[:, 20]):
        assert line.sum() == 2
        first, last = np.flatnonzero(line)
        assert first in (9, 10)
        assert last in (29, 30)
    assert not found[13:27, 13:27].any()
    assert not found[:8].any()


@pytest.mark.parametrize("colours", [((255, 0, 0), (0, 255, 0)), ((0, 0, 60), (0, 0, 180))])
def test_an_edge_of_one_channel_is_one(colours: tuple[tuple[int, int, int], tuple[int, int, int]]) -> None:
    image = Image.new("RGB", (20, 20), colours[0])
    image.paste(colours[1], (10, 0, 20, 20))
    assert (edges(image).sum(axis=1) == 1).all()


def test_a_slanted_edge_is_as_thin() -> None:
    image = Image.new("L", (60, 60))
    ImageDraw.Draw(image).polygon([(0, 0), (59, 59), (0, 59)], fill=255)
    found = edges(image)[5:-5, 5:-5]
    assert (found.sum(axis=1) <= 2).all()
    assert found.any(axis=1).all()


def test_a_weak_edge_counts_where_it_goes_on_from_a_strong_one() -> None:
    """A step of 40 has a gradient of 160: between the two bounds."""
    weak = Image.new("L", (40, 40), 100)
    weak.paste(140, (20, 0, 40, 40))
    assert not edges(weak).any()
    weak.paste(200, (20, 0, 40, 10))
    assert edges(weak)[15:].any(axis=1).all()


def test_a_step_below_the_bounds_is_none() -> None:
    image = Image.new("L", (40, 40), 100)
    image.paste(255, (20, 0, 40, 5))
    image.paste(120, (20, 5, 40, 40))  # a gradient of 80
    assert not edges(image)[10:].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (3, 2), (64, 64)])
def test_any_size_is_taken(size: tuple[int, int]) -> None:
    edges(scene(*size))
