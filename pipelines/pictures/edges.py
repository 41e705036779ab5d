"""The edges of a picture, as ControlNets for them were trained on: Canny's.

Knows numpy alone. Source: Canny, "A computational approach to edge detection", 1986, in the form that OpenCV gave it
(``cv2.Canny`` with its defaults, which annotators call): gradients by Sobel, of each pixel's strongest channel, their
length |dx| + |dy|, the directions in four sectors, the picture's edge repeated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

LOW, HIGH = 100, 200  # of a gradient's length: an edge begins above HIGH, and goes on above LOW
_FLAT = 0.41421356  # tan 22.5°: of a gradient less steep, the neighbours are left and right
_STEEP = 2.41421356  # tan 67.5°: and of a steeper one, above and below

Grid = npt.NDArray[Any]


def canny(image: Image.Image) -> Image.Image:
    """White edges on black, RGB, of the same size."""
    dx, dy = _gradients(np.asarray(image.convert("RGB"), dtype=np.int32))
    length = np.abs(dx) + np.abs(dy)
    thin = _is_crest(length, dx, dy)
    edges = _followed(thin & (length > HIGH), thin & (length > LOW))
    return Image.fromarray(np.where(edges, 255, 0).astype(np.uint8)).convert("RGB")


def _gradients(pixels: Grid) -> tuple[Grid, Grid]:
    """Across and down (h, w), each of the channel in which it is longest; of (h, w, 3)."""
    wide = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = wide[:-2] + 2 * wide[1:-1] + wide[2:]  # smoothed that way
    across = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    dx, dy = down[:, 2:] - down[:, :-2], across[2:] - across[:-2]
    strongest = np.argmax(np.abs(dx) + np.abs(dy), axis=2)[..., None]
    return np.take_along_axis(dx, strongest, 2)[..., 0], np.take_along_axis(dy, strongest, 2)[..., 0]


def _is_crest(length: Grid, dx: Grid, dy: Grid) -> Grid:
    """Is a gradient longer than its neighbours in its own direction? Of two that are equal, the first is."""
    height, width = length.shape
    wide = np.pad(length, 1)

    def at(down: int, across: int) -> Grid:
        return wide[1 + down : 1 + down + height, 1 + across : 1 + across + width]

    steepness, flatness = np.abs(dy), np.abs(dx)
    falls = (dx < 0) != (dy < 0)  # its direction, as the picture is seen
    sideways = (length > at(0, -1)) & (length >= at(0, 1))
    upright = (length > at(-1, 0)) & (length >= at(1, 0))
    rising = (length > at(-1, -1)) & (length > at(1, 1))
    falling = (length > at(-1, 1)) & (length > at(1, -1))
    slanted = np.where(falls, falling, rising)
    return np.where(steepness < flatness * _FLAT, sideways, np.where(steepness > flatness * _STEEP, upright, slanted))


def _followed(strong: Grid, weak: Grid) -> Grid:
    """The strong ones, and the weak ones that touch them, or touch such ones."""
    height, width = strong.shape
    open_ = np.pad(weak, 1).ravel()
    found = np.pad(strong, 1).ravel()
    row = width + 2
    around = np.array([-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1])
    front = np.flatnonzero(found)
    open_[front] = False
    while front.size:
        touched = (front[:, None] + around).ravel()
        front = np.unique(touched[open_[touched]])
        open_[front] = False
        found[front] = True
    return found.reshape(height + 2, row)[1:-1, 1:-1]
