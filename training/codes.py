"""What the text encoder says to the UNet: a fixed code for every scene.

After the words, the text tokens are slots with fixed meanings, whatever the prompt: four quarters of each of two
objects, the ground, the layout, and 144 parts of each object. A part is one cell of the object's own latents, so that
the UNet need only look up what to paint where; a quarter holds its 36 parts in one token, which is what the text
encoder's last layer deals out. Everything is the same for all objects: the text encoder and the UNet can be trained
apart. Knows concepts, grounds and the autoencoder's encoder; knows neither words nor noise.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from . import grounds, runtime
from .concepts import Concept
from .scenes import CELLS, LAYOUTS, SIZE, load_sprite

WIDTH = 192  # of a token
WORDS = 28  # tokens before the slots; a longer prompt runs over the slots, and the slots must bear it
GRID = 12  # parts a row: cells of the object's box
PARTS = GRID * GRID
HALF, QUARTERS = GRID // 2, 4
NUMBERS = 5  # of a part: 4 latents, and how far the object covers the cell
QUARTER = HALF * HALF * NUMBERS  # numbers of a quarter
MARK = 3.5  # size of a part's marks, before the layer norm
LOUD = 4.0  # how much a part's numbers are more than in its quarter's token, which has room for less
FIRST_WHOLE, SECOND_WHOLE = WORDS, WORDS + QUARTERS
GROUND, LAYOUT = WORDS + 2 * QUARTERS, WORDS + 2 * QUARTERS + 1
HEADS = LAYOUT + 1  # tokens up to here say everything; the parts after them say it again, spread out
FIRST, SECOND = HEADS, HEADS + PARTS
LENGTH = SECOND + PARTS
PAPER = (232, 232, 236)  # what an object lies on while its code is taken
FILE = runtime.BUILD / "codes.pt"


class Codes:
    """Tables of token codes; the last row of every table says "none"."""

    def __init__(self, whole: Tensor, part: Tensor, ground: Tensor, layout: Tensor, word: Tensor) -> None:
        self.whole = whole  # (2, concepts + 1, QUARTERS, WIDTH), as first and as second object
        self.part = part  # (2, concepts + 1, PARTS, WIDTH)
        self.ground = ground  # (grounds + 1, WIDTH)
        self.layout = layout  # (layouts + 1, WIDTH)
        self.word = word  # (WIDTH,), what every word position should say: nothing

    def heads(self, layout: Tensor, ground: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(B,) labels, -1 for none, to (B, HEADS, WIDTH): all tokens but the parts."""
        words = self.word.expand(len(layout), WORDS, WIDTH)
        rest = torch.stack((self.ground[ground], self.layout[layout]), 1)
        return torch.cat((words, self.whole[0, first], self.whole[1, second], rest), 1)

    def tokens(self, layout: Tensor, ground: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(B,) labels, -1 for none, to (B, LENGTH, WIDTH)."""
        heads = self.heads(layout, ground, first, second)
        return torch.cat((heads, self.part[0, first], self.part[1, second]), 1)

    def nothing(self) -> Tensor:
        """(1, LENGTH, WIDTH): the code of an empty prompt."""
        none = torch.tensor([-1])
        return self.tokens(none, none, none, none)


def make(art: Path, concepts: list[Concept], encoder: AutoencoderTiny) -> Codes:
    mosaics = torch.stack([mosaic(load_sprite(art, concept), encoder) for concept in concepts])
    mosaics = mosaics / mosaics.square().mean((0, 1)).sqrt().clamp(min=0.05)  # every number counts alike
    mosaics = torch.cat((mosaics, torch.zeros(1, PARTS, NUMBERS)))  # none: nothing covers anything
    numbers = _bounded(quarters(mosaics))
    whole = [_token(numbers, _marks(which, 2)) for which in range(2)]
    part = [part_tokens(numbers, which) for which in range(2)]

    generator = torch.Generator().manual_seed(6)

    def random_rows(count: int) -> Tensor:
        rows = torch.randn(count, WIDTH, generator=generator)
        rows = rows - rows.mean(-1, keepdim=True)
        return rows / rows.norm(dim=-1, keepdim=True) * WIDTH**0.5

    grounds_, layouts = random_rows(len(grounds.NAMES) + 1), random_rows(len(LAYOUTS) + 1)
    return Codes(torch.stack(whole), torch.stack(part), grounds_, layouts, random_rows(1)[0])


def load(art: Path, concepts: list[Concept], encoder: AutoencoderTiny | None = None) -> Codes:
    """The tables from the disk, or made with the encoder and kept there: training stretches must agree on them."""
    if (state := runtime.restore(FILE)) is None:
        if encoder is None:
            raise FileNotFoundError(f"{FILE}: fill the pool first")
        codes = make(art, concepts, encoder)
        runtime.save(FILE, vars(codes))
        return codes
    return Codes(**state)


@torch.no_grad()
def mosaic(sprite: Image.Image, encoder: AutoencoderTiny) -> Tensor:  # (PARTS, NUMBERS)
    """The object's latents on plain paper, less the paper's, and how far it covers each cell."""
    paper = Image.new("RGB", (SIZE, SIZE), PAPER)
    laid, cover = paper.copy(), Image.new("L", (SIZE, SIZE))
    box = GRID * SIZE // CELLS
    ratio = box / max(sprite.size)
    width, height = (max(1, round(side * ratio)) for side in sprite.size)
    small = sprite.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0).convert("RGBA")
    at = (SIZE - width) // 2, (SIZE - height) // 2
    laid.paste(small, at, small)
    cover.paste(small.getchannel("A"), at)
    rows = torch.from_numpy(np.stack([np.asarray(picture) for picture in (laid, paper)]))
    with_, without = encoder.encode(rows.permute(0, 3, 1, 2).float() / 127.5 - 1).latents
    covers = torch.from_numpy(np.asarray(cover.resize((CELLS, CELLS), Image.Resampling.BOX), np.float32) / 255)
    cells = torch.cat((with_ - without, 2 * covers[None]))
    edge = (CELLS - GRID) // 2
    return cells[:, edge : edge + GRID, edge : edge + GRID].flatten(1).T


def quarters(mosaics: Tensor) -> Tensor:
    """(N, PARTS, NUMBERS) to (N, QUARTERS, 36 * NUMBERS): blocks of 2x2 parts, number by number."""
    blocks = mosaics.view(-1, 2, HALF // 2, 2, 2, HALF // 2, 2, NUMBERS)  # row and column: of quarter, block, part
    return blocks.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(len(mosaics), QUARTERS, -1)


def parts_of(numbers: Tensor) -> Tensor:
    """The way back: (N, QUARTERS, 36 * NUMBERS) to (N, PARTS, NUMBERS)."""
    blocks = numbers.view(-1, 2, 2, HALF // 2, HALF // 2, NUMBERS, 2, 2)
    return blocks.permute(0, 1, 3, 6, 2, 4, 7, 5).reshape(len(numbers), PARTS, NUMBERS)


def quarter_numbers(whole: Tensor) -> Tensor:
    """(N, QUARTERS, WIDTH) tokens to (N, QUARTERS, 36 * NUMBERS): what they say of their parts."""
    return whole @ _basis()[:QUARTER].T


def part_tokens(numbers: Tensor, which: int) -> Tensor:
    """(N, QUARTERS, 36 * NUMBERS) as quarters' tokens say them to (N, PARTS, WIDTH) tokens of the parts.

    One direction of the basis takes each number, then the marks, then one that all parts share; a layer norm follows.
    Up to there they are linear in the quarters' tokens.
    """
    return F.layer_norm(parts_of(numbers) @ (LOUD * _basis()[:NUMBERS]) + part_slots(which), (WIDTH,))


def part_slots(which: int) -> Tensor:
    """(PARTS, WIDTH): a part's token of which nothing is known yet, before the layer norm."""
    marks = torch.cat((_marks(which, GRID), torch.full((PARTS, 1), 2.0)), 1)
    return MARK * marks @ _basis()[NUMBERS : NUMBERS + marks.shape[1]]


def _bounded(numbers: Tensor) -> Tensor:
    """(N, QUARTERS, M) numbers, scaled to take 0.75 of a quarter's token on average and 0.85 at most."""
    scaled = numbers * (0.75 * WIDTH / numbers[:-1].square().sum(-1).mean()) ** 0.5
    long = scaled.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return scaled * (long.clamp(max=(0.85 * WIDTH) ** 0.5) / long)


def _token(numbers: Tensor, marks: Tensor) -> Tensor:
    """(..., K, N) numbers and (K, M) marks to (..., K, WIDTH) tokens of a layer norm's length.

    Turned into fixed directions of mean 0, so that the numbers come through a layer norm as they are: one more
    direction takes what is left of the length.
    """
    size, wide = numbers.shape[-1], marks.shape[-1]
    basis = _basis()
    marks = marks * (0.1 * WIDTH / marks.square().sum(-1, keepdim=True)) ** 0.5
    left = (WIDTH - numbers.square().sum(-1, keepdim=True) - 0.1 * WIDTH).clamp(min=0).sqrt()
    return numbers @ basis[:size] + marks @ basis[size : size + wide] + left * basis[size + wide]


def _marks(which: int, grid: int) -> Tensor:  # (grid * grid, 2 * grid + 2)
    """One-hot row, column and object: attention sees a bag of tokens, each must say which it is."""
    rows, columns = torch.eye(grid).repeat_interleave(grid, 0), torch.eye(grid).repeat(grid, 1)
    return torch.cat((rows, columns, torch.eye(2)[which].expand(grid * grid, 2)), 1)


def mark_waves(count: int) -> Tensor:  # (2 * count + 1, WIDTH)
    """Directions in which a part's token has the cosines of its row, of its column, and its object, about 1 in size."""
    at = (torch.arange(GRID) + 0.5) / GRID
    waves = torch.cos(torch.pi * torch.outer(torch.arange(1, count + 1), at))  # (count, GRID)
    which = torch.tensor([[1.0, -1.0]])
    return 0.4 * torch.block_diag(waves, waves, which) @ _basis()[NUMBERS : NUMBERS + 2 * GRID + 2]


@functools.cache
def _basis() -> Tensor:  # (WIDTH - 1, WIDTH), orthonormal, each row of mean 0
    rough = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5))
    rough[0] = 1
    basis: Tensor = torch.linalg.qr(rough.T)[0].T[1:]
    return basis
