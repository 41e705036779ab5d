"""An object drawn on a flat ground is cut out, with the alpha and the colours that it was painted with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipelines.pictures.matting import cut_out

Floats = npt.NDArray[np.float64]


def disc(side: int, radius: float) -> Floats:
    """The share of each pixel that a disc covers, from 8×8 samples."""
    at = (np.arange(side * 8) + 0.5) / 8 - side / 2
    inside = (at[:, None] ** 2 + at[None, :] ** 2) < radius**2
    shares: Floats = inside.reshape(side, 8, side, 8).mean(axis=(1, 3))
    return shares


def painted(colour: tuple[int, int, int], ground: Floats, cover: Floats) -> Image.Image:
    mixed = cover[..., None] * np.array(colour) + (1 - cover[..., None]) * ground
    return Image.fromarray(mixed.round().astype(np.uint8))


def flat(side: int, colour: tuple[int, int, int]) -> Floats:
    return np.broadcast_to(np.array(colour, dtype=np.float64), (side, side, 3))


@pytest.mark.parametrize("side", [64, 512])
@pytest.mark.parametrize(
    ("colour", "ground"),
    [((200, 30, 30), (255, 255, 255)), ((240, 240, 235), (140, 142, 146)), ((20, 20, 30), (140, 142, 146))],
)
def test_alpha_and_colours_come_back(side: int, colour: tuple[int, int, int], ground: tuple[int, int, int]) -> None:
    cover = disc(side, side / 3)
    cut = np.asarray(cut_out(painted(colour, flat(side, ground), cover))).astype(float)
    assert np.abs(cut[..., 3] / 255 - cover).max() < 0.12
    shown = cut[..., 3] > 25  # decontaminated: of the ground nothing is left in the edge
    assert np.abs(cut[shown][:, :3] - colour).max() <= 12


def test_a_ground_that_changes_evenly_is_still_a_ground() -> None:
    ramp = np.linspace(0, 60, 128)[:, None, None] + np.array([150, 160, 170])
    cover = disc(128, 40)
    cut = np.asarray(cut_out(painted((30, 60, 200), np.broadcast_to(ramp, (128, 128, 3)), cover)))
    assert np.abs(cut[..., 3] / 255 - cover).max() < 0.15


def test_ground_inside_the_object_stays() -> None:
    cover = disc(128, 50) - disc(128, 15)
    cut = np.asarray(cut_out(painted((200, 30, 30), flat(128, (255, 255, 255)), cover)))
    assert cut[64, 64].tolist() == [255, 255, 255, 255]


def test_ground_round_many_corners_goes() -> None:
    maze = np.zeros((99, 99))
    for wall in range(3, 96, 6):  # a snake: walls from alternate sides
        maze[wall : wall + 3, (0 if wall % 12 == 3 else 6) : (93 if wall % 12 == 3 else 99)] = 1
    cut = np.asarray(cut_out(painted((20, 20, 20), flat(99, (250, 250, 250)), maze)))
    assert not cut[..., 3][maze == 0].any()
    assert (cut[..., 3][maze == 1] > 200).all()


def test_without_a_flat_ground_nothing_is_cut() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cut = np.asarray(cut_out(Image.fromarray(noise)))
    assert (cut[..., 3] == 255).all()
    assert np.array_equal(cut[..., :3], noise)


def test_an_object_that_touches_the_border_keeps_its_part_of_it() -> None:
    cover = np.zeros((64, 64))
    cover[30:, 20:44] = 1
    cut = np.asarray(cut_out(painted((180, 90, 20), flat(64, (140, 142, 146)), cover)))
    assert (cut[34:, 24:40, 3] == 255).all()
    assert not cut[:28, :, 3].any()


def test_one_flat_colour_is_all_ground() -> None:
    assert not np.asarray(cut_out(Image.new("RGB", (32, 32), (9, 99, 200))))[..., 3].any()


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (16, 2048)])
def test_any_shape(size: tuple[int, int]) -> None:
    assert cut_out(Image.new("RGB", size, "white")).size == size
