"""Matching: the object in a picture is the nearest neighbour among all concepts, wherever and however large it is.

Knows pixels and sprites; knows neither words nor networks. A picture's ground is estimated from its border and
subtracted. What remains is compared with every concept at several sizes and at every place. The concept that leaves the
smallest squared error over the whole picture is the nearest.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .concepts import Concept
from .scenes import load_sprite

SIDE = 48  # pixels at which pictures are compared
SIZES = (0.34, 0.40, 0.46, 0.54, 0.62, 0.69, 0.77, 0.85, 0.93)  # longer sides tried, in frames


class Matcher:
    """All concepts at all sizes, as spectra, so that a picture is compared with all places at once."""

    def __init__(self, art: Path, concepts: Sequence[Concept], sizes: Sequence[float] = SIZES) -> None:
        self.count, self.sizes = len(concepts), sizes
        sprites = [load_sprite(art, concept) for concept in concepts]
        self.tables = [self._table(sprites, size) for size in sizes]

    def _table(self, sprites: Sequence[Image.Image], size: float) -> tuple[Tensor, ...]:
        frames = torch.from_numpy(np.stack([_frame(sprite, size) for sprite in sprites]))  # (N, 4, S, S)
        colour, alpha = frames[:, :3], frames[:, 3:]
        return (
            torch.fft.rfft2(colour).conj(),
            torch.fft.rfft2(alpha).conj(),
            colour.square().sum((1, 2, 3)),
            (colour * alpha).sum((2, 3)),  # (N, 3)
            alpha.square().sum((1, 2, 3)),
        )

    @torch.no_grad()
    def errors(self, picture: Image.Image, middle: tuple[float, float] | None = None, slack: float = 0.5) -> Tensor:
        """(concepts,) smallest squared error of each. ``middle`` and ``slack`` say where to look, in frames."""
        pixels = pixels_of(picture)
        ground = ground_of(pixels)
        rest = pixels - ground
        shade = ground.mean((1, 2))
        spectrum = torch.fft.rfft2(rest)
        window = _window(middle, slack)
        best = torch.full((self.count,), float("inf"))
        for colour, alpha, colour2, cross, alpha2 in self.tables:
            tinted = (spectrum * colour).sum(1) - (spectrum * alpha * shade.view(3, 1, 1)).sum(1)
            likeness = torch.fft.irfft2(tinted, s=(SIDE, SIDE))
            own = colour2 - 2 * cross @ shade + alpha2 * shade.square().sum()
            found = own - 2 * likeness.masked_fill(~window, float("-inf")).amax((1, 2))
            best = torch.minimum(best, found)
        return best + rest.square().sum()


def _frame(sprite: Image.Image, size: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(4, S, S): the sprite's premultiplied colour and alpha in the middle of an empty frame."""
    ratio = size * SIDE / max(sprite.size)
    width, height = (max(1, round(s * ratio)) for s in sprite.size)
    small = np.asarray(sprite.resize((width, height), Image.Resampling.BOX), np.float32) / 255
    frame = np.zeros((SIDE, SIDE, 4), np.float32)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    frame[top : top + height, left : left + width] = small
    return np.ascontiguousarray(frame.transpose(2, 0, 1))


def pixels_of(picture: Image.Image) -> Tensor:  # (3, S, S), 0..1
    """The picture at the size at which pictures are compared."""
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, np.float32).transpose(2, 0, 1) / 255)


def ground_of(pixels: Tensor) -> Tensor:
    """(3, S, S): the plane through the border's colours, fitted so that objects there do not count."""
    edge = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    edge[:3], edge[-3:], edge[:, :3], edge[:, -3:] = True, True, True, True
    at = torch.linspace(-1, 1, SIDE)
    basis = torch.stack((torch.ones(SIDE, SIDE), at.view(-1, 1).expand(SIDE, SIDE), at.expand(SIDE, SIDE)), -1)
    points, colours = basis[edge], pixels[:, edge].T
    weight = torch.ones(len(points), 1)
    for _ in range(3):
        plane = torch.linalg.lstsq(points * weight, colours * weight).solution
        off = (points @ plane - colours).square().sum(-1, keepdim=True)
        weight = 1 / (1 + off / 0.003)
    fitted: Tensor = (basis @ plane).permute(2, 0, 1)
    return fitted


def _window(middle: tuple[float, float] | None, slack: float) -> Tensor:
    """(S, S): the shifts at which an object's middle lies within ``slack`` of the place wanted."""
    shift = torch.arange(SIDE)
    shift = torch.where(shift >= SIDE // 2, shift - SIDE, shift) / SIDE
    x, y = middle or (0.5, 0.5)
    across, down = (shift - (x - 0.5)).abs() <= slack, (shift - (y - 0.5)).abs() <= slack
    window: Tensor = down.view(-1, 1) & across.view(1, -1)
    return window
