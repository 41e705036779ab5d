"""What the text encoder says to the UNet: a fixed code for every scene.

After the words, the text tokens are slots with fixed meanings, whatever the prompt: four quarters of each of two
objects, the ground, the layout, and 36 parts of each object. A part is four cells of the object's own latents, so that
the UNet need only look up what to paint where; a quarter holds its nine parts in one token, which is what the text
encoder's last layer deals out. Everything is the same for all objects: the text encoder and the UNet can be trained
apart. Knows concepts, grounds and the autoencoder's encoder; knows neither words nor noise.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from torch import Tensor

from . import grounds, runtime
from .concepts import Concept
from .scenes import CELLS, LAYOUTS, SIZE, load_sprite

WIDTH = 192  # of a token
WORDS = 28  # tokens before the slots; a longer prompt runs over the slots, and the slots must bear it
SIDE = 12  # cells of the object's box
GRID = 6  # parts a row
PARTS = GRID * GRID
QUARTERS = 4
NUMBERS = 20  # of a part: 2x2 cells of 4 latents, and their covers
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
    half = GRID // 2
    quarters = mosaics.view(-1, 2, half, 2, half, NUMBERS).transpose(2, 3).reshape(-1, QUARTERS, half * half * NUMBERS)
    whole = [_token(quarters, _marks(which, 2), share=0.75) for which in range(2)]
    part = [_token(mosaics, _marks(which, GRID), share=0.45) for which in range(2)]

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
    box = SIDE * SIZE // CELLS
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
    edge = (CELLS - SIDE) // 2
    cells = cells[:, edge : edge + SIDE, edge : edge + SIDE]
    step = SIDE // GRID
    return cells.view(-1, GRID, step, GRID, step).permute(1, 3, 0, 2, 4).reshape(PARTS, NUMBERS)


def _token(numbers: Tensor, marks: Tensor, share: float) -> Tensor:
    """(..., K, N) numbers and (K, M) marks to (..., K, WIDTH) tokens of a layer norm's length.

    Turned into fixed directions of mean 0, so that the numbers come through a layer norm as they are: one more
    direction takes what is left of the length. ``share`` of it goes to the numbers on average, at most 0.9.
    """
    size, wide = numbers.shape[-1], marks.shape[-1]
    basis = _basis()
    scaled = numbers * (share * WIDTH / numbers[:-1].square().sum(-1).mean()) ** 0.5
    long = scaled.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    scaled = scaled * (long.clamp(max=(0.85 * WIDTH) ** 0.5) / long)
    marks = marks * (0.1 * WIDTH / marks.square().sum(-1, keepdim=True)) ** 0.5
    left = (WIDTH - scaled.square().sum(-1, keepdim=True) - 0.1 * WIDTH).clamp(min=0).sqrt()
    return scaled @ basis[:size] + marks @ basis[size : size + wide] + left * basis[size + wide]


def _marks(which: int, grid: int) -> Tensor:  # (grid * grid, 2 * grid + 2)
    """One-hot row, column and object: attention sees a bag of tokens, each must say which it is."""
    rows, columns = torch.eye(grid).repeat_interleave(grid, 0), torch.eye(grid).repeat(grid, 1)
    return torch.cat((rows, columns, torch.eye(2)[which].expand(grid * grid, 2)), 1)


def mark_waves() -> Tensor:  # (7, WIDTH)
    """Directions in which a part's token has the cosines of its row, of its column, and its object, about 1 in size."""
    at = (torch.arange(GRID) + 0.5) / GRID
    waves = torch.cos(torch.pi * torch.outer(torch.arange(1, 4), at))  # (3, GRID)
    none, object_ = torch.zeros(3, GRID), torch.tensor([[1.0, -1.0]])
    rows = torch.cat((waves, none, torch.zeros(3, 2)), 1), torch.cat((none, waves, torch.zeros(3, 2)), 1)
    which = torch.cat((torch.zeros(1, 2 * GRID), object_), 1)
    size = (0.1 * WIDTH / 3) ** 0.5  # of each of the three marks
    return 1.4 / size * torch.cat((*rows, which)) @ _basis()[NUMBERS : NUMBERS + 2 * GRID + 2]


def quarter_marks() -> tuple[Tensor, Tensor]:
    """(6, WIDTH) directions each: what a part's token asks for, and what its quarter's token answers with.

    Both give the quarter's row, its column and the object, one-hot: their product is largest at the right quarter.
    """
    half, basis = GRID // 2, _basis()
    rows = torch.eye(2).repeat_interleave(half, 1)  # (2, GRID)
    asks = torch.block_diag(rows, rows, torch.eye(2)) @ basis[NUMBERS : NUMBERS + 2 * GRID + 2]
    first = half * half * NUMBERS
    return 2.5 * asks, 2.5 * basis[first : first + 6]


def _basis() -> Tensor:  # (WIDTH - 1, WIDTH), orthonormal, each row of mean 0
    rough = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5))
    rough[0] = 1
    basis: Tensor = torch.linalg.qr(rough.T)[0].T[1:]
    return basis
