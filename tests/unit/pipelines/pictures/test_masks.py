"""Whatever is done to a mask, where it says 0 the picture stays as it was."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.pictures.masks import cover_mask, feather, stretch
from pipelines.pictures.repaint import put_back, whole_cells

Array = npt.NDArray[np.uint8]


def box_mask(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, box)
    return mask


def noise(mode: str, width: int, height: int) -> Image.Image:
    bands = len(mode)
    return Image.fromarray(np.random.default_rng(bands).integers(0, 256, (height, width, bands), dtype=np.uint8))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90), st.integers(0, 39))
def test_no_resampling_spreads_a_mask(mask_w: int, mask_h: int, width: int, height: int, edge: int) -> None:
    edge = min(edge, mask_w)
    whole = np.asarray(stretch(box_mask(mask_w, mask_h, (0, 0, edge, mask_h)), width, height))
    # A pixel that lies wholly beyond the mask's edge is kept.
    first_beyond = -(-edge * width // mask_w)
    assert not whole[:, first_beyond:].any()
    assert whole.max() == (255 if edge == mask_w else whole.max())


def test_a_mask_is_cut_as_its_picture_is() -> None:
    mask = box_mask(300, 200, (100, 0, 200, 200))
    cut = np.asarray(cover_mask(mask, 64, 64))
    columns = np.flatnonzero(cut.max(axis=0))
    # 64 of 200 rows: the middle 200 columns remain, the mask's hundred in their middle
    assert (columns.min(), columns.max()) == (16, 47)


def test_feathering_is_inside_only_and_reaches_full_strength() -> None:
    mask = box_mask(1024, 1024, (200, 300, 800, 900))
    soft = np.asarray(feather(mask)).astype(int)
    assert not soft[np.asarray(mask) == 0].any()
    assert (soft <= np.asarray(mask)).all()
    assert soft[600, 500] == 255
    edge = soft[600, 200:212]
    assert edge[0] < 60
    assert edge[-1] == 255
    assert (np.diff(edge) >= 0).all()


def test_a_mask_too_thin_to_feather_is_kept() -> None:
    mask = box_mask(1024, 1024, (500, 100, 503, 900))
    assert np.array_equal(np.asarray(feather(mask)), np.asarray(mask))


def test_a_small_picture_has_no_feather() -> None:
    mask = box_mask(64, 64, (10, 10, 30, 30))
    assert feather(mask) is mask


@pytest.mark.parametrize("place", [(0, 0), (333, 517), (1020, 1020)])
def test_no_mask_falls_between_the_cells(place: tuple[int, int]) -> None:
    x, y = place
    cells = np.asarray(whole_cells(box_mask(1024, 1024, (x, y, x + 4, y + 4)), 64, 64, 8))
    assert set(np.unique(cells)) == {0, 255}
    assert cells[y // 16 // 8 * 8, x // 16 // 8 * 8] == 255  # the one pixel of the cell that a pipeline reads
    assert (cells > 0).sum() in (64, 128, 256)


def test_an_aligned_mask_is_left_as_it_is() -> None:
    mask = box_mask(64, 64, (32, 0, 64, 64))
    assert np.array_equal(np.asarray(whole_cells(mask, 64, 64, 8)), np.asarray(mask))
    assert whole_cells(box_mask(100, 60, (0, 0, 3, 3)), 100, 60, 16).size == (100, 60)


@pytest.mark.parametrize("drawn_mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("kept_mode", ["RGB", "RGBA"])
def test_what_is_kept_is_kept_to_the_bit(drawn_mode: str, kept_mode: str) -> None:
    drawn, kept = noise(drawn_mode, 40, 30), noise(kept_mode, 40, 30)
    levels = np.tile(np.array([0, 0, 1, 128, 255], dtype=np.uint8), (30, 8))
    result = put_back(drawn, kept, Image.fromarray(levels))
    assert result.mode == ("RGB" if drawn_mode == kept_mode == "RGB" else "RGBA")
    found, below, above = (np.asarray(image.convert(result.mode)) for image in (result, kept, drawn))
    assert np.array_equal(found[levels == 0], below[levels == 0])
    shown = above[levels == 255]
    if result.mode == "RGBA":  # a colour that does not show may be any
        assert np.array_equal(found[levels == 255][:, 3], shown[:, 3])
        opaque = shown[:, 3] > 0
        assert np.abs(found[levels == 255][opaque].astype(int) - shown[opaque]).max() <= 1
    else:
        assert np.array_equal(found[levels == 255], shown)


def test_a_blend_with_nothing_keeps_its_own_colour() -> None:
    kept = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    result = put_back(Image.new("RGB", (1, 1), (200, 10, 10)), kept, Image.new("L", (1, 1), 128))
    assert np.asarray(result)[0, 0].tolist() == [200, 10, 10, 128]
