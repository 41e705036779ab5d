"""What the text encoder says to the UNet: a fixed code for every scene.

The last 36 of the 64 text tokens are slots with fixed meanings, whatever words the prompt has: one for
the whole of each object, one for the ground, one for the layout, and 16 for the parts of each object. An
object's 16 parts are a 4x4 mosaic of its thumbnail, its whole a summary of it, so that what the UNet
learns of one object serves all the others, and the text encoder and the UNet can be trained apart. Knows
concepts and grounds; knows neither words nor noise.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from . import grounds, runtime
from .concepts import Concept
from .scenes import LAYOUTS, load_sprite

WIDTH = 256  # of a token
WORDS = 28  # tokens before the slots; a longer prompt runs over the slots, and the slots must bear it
GRID = 4  # the mosaic is GRID x GRID
PART = GRID * GRID
LENGTH = WORDS + 4 + 2 * PART
WHOLE, GROUND, LAYOUT = WORDS, WORDS + 2, WORDS + 3
FIRST, SECOND = WORDS + 4, WORDS + 4 + PART
THUMB = 32  # pixels
RANK = 192  # of the thumbnails together; the text encoder can learn no more
KEEP = 160  # numbers in a token that say what a part or a whole looks like
FILE = runtime.BUILD / "codes.pt"


class Codes:
    """Tables of token codes; the last row of every table says "none"."""

    def __init__(
        self, whole: Tensor, first: Tensor, second: Tensor, ground: Tensor, layout: Tensor, word: Tensor
    ) -> None:
        self.whole = whole  # (2, concepts + 1, WIDTH)
        self.first = first  # (concepts + 1, PART, WIDTH)
        self.second = second  # the same thumbnails, marked as the second object's
        self.ground = ground  # (grounds + 1, WIDTH)
        self.layout = layout  # (layouts + 1, WIDTH)
        self.word = word  # (WIDTH,), what every word position should say: nothing

    def tokens(self, layout: Tensor, ground: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(B,) labels, -1 for none, to (B, LENGTH, WIDTH)."""
        rows = len(layout)
        words = self.word.expand(rows, WORDS, WIDTH)
        wholes = self.whole[0, first], self.whole[1, second]
        heads = torch.stack((*wholes, self.ground[ground], self.layout[layout]), 1)
        return torch.cat((words, heads, self.first[first], self.second[second]), 1)

    def nothing(self) -> Tensor:
        """(1, LENGTH, WIDTH): the code of an empty prompt."""
        none = torch.tensor([-1])
        return self.tokens(none, none, none, none)


def make(art: Path, concepts: list[Concept]) -> Codes:
    thumbs = np.stack([thumbnail(load_sprite(art, concept)) for concept in concepts])
    flat = torch.from_numpy(thumbs.reshape(len(thumbs), -1))
    middle = flat.mean(0)
    _, _, axes = torch.linalg.svd(flat - middle, full_matrices=False)
    summary = _half_whiten(torch.cat(((flat - middle) @ axes[:KEEP].T, torch.zeros(1, KEEP))))
    flat = (flat - middle) @ axes[:RANK].T @ axes[:RANK] + middle
    cell = THUMB // GRID
    parts = flat.view(-1, GRID, cell, GRID, cell, 4).transpose(2, 3).reshape(-1, PART, cell * cell * 4)
    parts = torch.cat((parts, torch.zeros(1, PART, parts.shape[-1])))  # none: an empty thumbnail
    _, _, turn = torch.linalg.svd(parts.flatten(0, 1), full_matrices=False)
    mosaic = _half_whiten(parts @ turn[:KEEP].T)
    generator = torch.Generator().manual_seed(5)
    basis = _basis(generator)
    # attention sees a bag of tokens: each must say which part of which object it is
    wide = 2 * GRID + 2
    marks = [0.5 * _marks(which) @ basis[KEEP + 1 : KEEP + 1 + wide] for which in (0, 1)]
    first, second = (_unit(mosaic @ basis[: KEEP + 1] + mark) for mark in marks)
    whole = torch.stack([_unit(summary @ basis[: KEEP + 1] + 0.7 * basis[KEEP + 1 + wide + i]) for i in (0, 1)])
    free = basis[KEEP + 1 :]

    def random_rows(count: int) -> Tensor:
        return _unit(torch.randn(count, len(free), generator=generator) @ free)

    return Codes(
        whole,
        first,
        second,
        random_rows(len(grounds.NAMES) + 1),
        random_rows(len(LAYOUTS) + 1),
        random_rows(1)[0],
    )


def load(art: Path, concepts: list[Concept]) -> Codes:
    """The tables from the disk, or made and kept there: training stretches must agree on them."""
    if (state := runtime.restore(FILE)) is None:
        codes = make(art, concepts)
        runtime.save(FILE, vars(codes))
        return codes
    return Codes(**state)


def thumbnail(sprite: Image.Image) -> NDArray[np.float32]:  # (THUMB, THUMB, 4), premultiplied
    ratio = THUMB / max(sprite.size)
    width, height = (max(1, round(side * ratio)) for side in sprite.size)
    small = np.asarray(sprite.resize((width, height), Image.Resampling.BOX), np.float32) / 255
    frame = np.zeros((THUMB, THUMB, 4), np.float32)
    top, left = (THUMB - height) // 2, (THUMB - width) // 2
    frame[top : top + height, left : left + width] = small
    return frame


def _half_whiten(rows: Tensor) -> Tensor:
    """Principal components brought nearer to one another, to a length of about 1, and a constant."""
    spread = rows.flatten(0, -2).square().mean(0).sqrt()
    rows = rows / spread.sqrt()
    rows = rows / rows.square().sum(-1).mean().sqrt()
    return torch.cat((rows, torch.full((*rows.shape[:-1], 1), 0.3)), -1)


def _marks(which: int) -> Tensor:  # (PART, 2 * GRID + 2)
    """One-hot row, column and object of every part."""
    rows, columns = torch.eye(GRID).repeat_interleave(GRID, 0), torch.eye(GRID).repeat(GRID, 1)
    return torch.cat((rows, columns, torch.eye(2)[which].expand(PART, 2)), 1)


def _basis(generator: torch.Generator) -> Tensor:  # (WIDTH - 1, WIDTH), orthonormal, each row of mean 0
    rough = torch.randn(WIDTH, WIDTH, generator=generator)
    rough[0] = 1
    basis: Tensor = torch.linalg.qr(rough.T)[0].T[1:]
    return basis


def _unit(rows: Tensor) -> Tensor:
    """Length sqrt(WIDTH), as after a layer norm."""
    unit: Tensor = rows / rows.norm(dim=-1, keepdim=True) * WIDTH**0.5
    return unit
