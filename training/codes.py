"""Codes: what the text encoder gives to the UNet for every scene, fixed in advance.

After the words, the text tokens are slots with fixed meanings, whatever the prompt: four quarters of each of two
objects, the ground, the layout, and 144 parts of each object. A part is one cell of the object's own latents, so that
the UNet need only look up what to paint where. A quarter holds its 36 parts in one token, which the text encoder's last
layer distributes to the parts' slots. All of this is the same for all objects, so the text encoder and the UNet can be
trained apart. Knows concepts, grounds and the autoencoder's encoder; knows neither words nor noise.
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
WORDS = 28  # tokens before the slots; a longer prompt runs into the slots, which must still work
GRID = 12  # parts a row: cells of the object's box
PARTS = GRID * GRID
HALF, QUARTERS = GRID // 2, 4
NUMBERS = 5  # of a part: 4 latents, and how far the object covers the cell
QUARTER = HALF * HALF * NUMBERS  # numbers of a quarter
MARK_GAIN = 3.5  # size of a part's marks, before the layer norm
PART_GAIN = 4.0  # how much larger a part's numbers are than in its quarter's token, which has less room
FIRST_WHOLE, SECOND_WHOLE = WORDS, WORDS + QUARTERS
GROUND, LAYOUT = WORDS + 2 * QUARTERS, WORDS + 2 * QUARTERS + 1
PREFIX = LAYOUT + 1  # tokens up to here hold everything; the parts after them hold it again, one cell a token
FIRST, SECOND = PREFIX, PREFIX + PARTS
LENGTH = SECOND + PARTS
PAPER = (232, 232, 236)  # what an object lies on while its code is taken
FILE = runtime.BUILD / "codes.pt"


class Codes:
    """Tables of token codes; the last row of every table stands for "none"."""

    def __init__(self, whole: Tensor, part: Tensor, ground: Tensor, layout: Tensor, word: Tensor) -> None:
        self.whole = whole  # (2, concepts + 1, QUARTERS, WIDTH), as first and as second object
        self.part = part  # (2, concepts + 1, PARTS, WIDTH)
        self.ground = ground  # (grounds + 1, WIDTH)
        self.layout = layout  # (layouts + 1, WIDTH)
        self.word = word  # (WIDTH,), what every word position should become

    def prefix(self, layout: Tensor, ground: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(B,) labels, -1 for none, to (B, PREFIX, WIDTH): all tokens but the parts."""
        words = self.word.expand(len(layout), WORDS, WIDTH)
        rest = torch.stack((self.ground[ground], self.layout[layout]), 1)
        return torch.cat((words, self.whole[0, first], self.whole[1, second], rest), 1)

    def tokens(self, layout: Tensor, ground: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(B,) labels, -1 for none, to (B, LENGTH, WIDTH)."""
        prefix = self.prefix(layout, ground, first, second)
        return torch.cat((prefix, self.part[0, first], self.part[1, second]), 1)

    def nothing(self) -> Tensor:
        """(1, LENGTH, WIDTH): the code of an empty prompt."""
        none = torch.tensor([-1])
        return self.tokens(none, none, none, none)


def make(art: Path, concepts: list[Concept], encoder: AutoencoderTiny) -> Codes:
    """The tables of these concepts; grounds and layouts get random codes from a fixed seed."""
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
        scaled: Tensor = rows / rows.norm(dim=-1, keepdim=True) * WIDTH**0.5
        return scaled

    grounds_, layouts = random_rows(len(grounds.NAMES) + 1), random_rows(len(LAYOUTS) + 1)
    return Codes(torch.stack(whole), torch.stack(part), grounds_, layouts, random_rows(1)[0])


def load(art: Path, concepts: list[Concept], encoder: AutoencoderTiny | None = None) -> Codes:
    """The tables from the disk, or made with the encoder and saved there: all training sessions must agree on them."""
    if (state := runtime.restore(FILE)) is None:
        if encoder is None:
            raise FileNotFoundError(f"{FILE}: make the shards first")
        codes = make(art, concepts, encoder)
        runtime.save(FILE, vars(codes))
        return codes
    return Codes(**state)


@torch.no_grad()
def mosaic(sprite: Image.Image, encoder: AutoencoderTiny) -> Tensor:  # (PARTS, NUMBERS)
    """The object's latents on plain paper, minus the paper's, and how far it covers each cell."""
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
    latents, paper_latents = encoder.encode(rows.permute(0, 3, 1, 2).float() / 127.5 - 1).latents
    covers = torch.from_numpy(np.asarray(cover.resize((CELLS, CELLS), Image.Resampling.BOX), np.float32) / 255)
    cells = torch.cat((latents - paper_latents, 2 * covers[None]))
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
    """(N, QUARTERS, WIDTH) tokens to (N, QUARTERS, 36 * NUMBERS): the numbers of their parts, read back."""
    numbers: Tensor = whole @ basis()[:QUARTER].T
    return numbers


def part_tokens(numbers: Tensor, which: int) -> Tensor:
    """(N, QUARTERS, 36 * NUMBERS) as of `quarter_numbers` to (N, PARTS, WIDTH) tokens of the parts.

    Each number takes one direction of the basis, then come the marks, then a direction that all parts share. A layer
    norm follows. Before it, the tokens are linear in the quarters' tokens.
    """
    return F.layer_norm(parts_of(numbers) @ (PART_GAIN * basis()[:NUMBERS]) + part_slots(which), (WIDTH,))


def part_slots(which: int) -> Tensor:
    """(PARTS, WIDTH): the parts' tokens without their numbers, before the layer norm."""
    marks = torch.cat((_marks(which, GRID), torch.full((PARTS, 1), 2.0)), 1)
    return MARK_GAIN * marks @ basis()[NUMBERS : NUMBERS + marks.shape[1]]


def _bounded(numbers: Tensor) -> Tensor:
    """(N, QUARTERS, M) numbers, scaled to take 0.75 of a quarter's token on average and 0.85 at most."""
    scaled: Tensor = numbers * (0.75 * WIDTH / numbers[:-1].square().sum(-1).mean()) ** 0.5
    long: Tensor = scaled.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return scaled * (long.clamp(max=(0.85 * WIDTH) ** 0.5) / long)


def _token(numbers: Tensor, marks: Tensor) -> Tensor:
    """(..., K, N) numbers and (K, M) marks to (..., K, WIDTH) tokens of the length that a layer norm gives.

    They are written in fixed directions of mean 0, so that a layer norm leaves the numbers as they are. One more
    direction takes what is left of the length.
    """
    size, wide = numbers.shape[-1], marks.shape[-1]
    rows = basis()
    marks = marks * (0.1 * WIDTH / marks.square().sum(-1, keepdim=True)) ** 0.5
    left = (WIDTH - numbers.square().sum(-1, keepdim=True) - 0.1 * WIDTH).clamp(min=0).sqrt()
    return numbers @ rows[:size] + marks @ rows[size : size + wide] + left * rows[size + wide]


def _marks(which: int, grid: int) -> Tensor:  # (grid * grid, 2 * grid + 2)
    """One-hot row, column and object: attention has no order of tokens, so each must carry its place."""
    rows, columns = torch.eye(grid).repeat_interleave(grid, 0), torch.eye(grid).repeat(grid, 1)
    return torch.cat((rows, columns, torch.eye(2)[which].expand(grid * grid, 2)), 1)


def mark_waves(count: int) -> Tensor:  # (2 * count + 1, WIDTH)
    """Directions in which a part's token has its object, and its row's and column's cosines, about 1 in size."""
    at = (torch.arange(GRID) + 0.5) / GRID
    waves = torch.cos(torch.pi * torch.outer(torch.arange(1, count + 1), at))  # (count, GRID)
    which = torch.tensor([[1.0, -1.0]])
    blocks: Tensor = torch.block_diag(waves, waves, which)  # type: ignore[no-untyped-call]
    waves_and_object: Tensor = 0.4 * blocks @ basis()[NUMBERS : NUMBERS + 2 * GRID + 2]
    return waves_and_object


@functools.cache
def basis() -> Tensor:  # (WIDTH - 1, WIDTH)
    """Orthonormal directions that codes are written in, each of mean 0."""
    noise = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5))
    noise[0] = 1
    rows: Tensor = torch.linalg.qr(noise.T)[0].T[1:]
    return rows
