"""Codes: what the text encoder gives to the UNet for every scene, fixed in advance.

After the words, the text tokens are slots with fixed meanings, whatever the prompt: nine blocks of each of two
objects, the ground, the layout, and 144 parts of each object. A part is one cell of the object's own latents, so that
the UNet need only look up what to paint where: 17 numbers, the 16 of the latents and how far the object covers the
cell. A block holds its 16 parts in one token, which the text encoder's last layer distributes to the parts' slots. Of
the 136 numbers of each of its halves it has room for 88: sums, those that differ most among all objects' halves. An
object's colour is a direction of its own in each of its tokens: the parts say what the object looks like in its own
colour, and the UNet learns, once for all objects, what a colour makes of that. All of this is the same for all objects,
so the text encoder and the UNet can be trained apart. Knows labels and the autoencoder's encoder; knows neither words
nor noise.
"""

import functools
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .windows import FINE

WIDTH = 192  # of a token
WORDS = 28  # tokens before the slots; a longer prompt runs into the slots, which must still work
GRID = 12  # parts a row: cells of the object's box
PARTS = GRID * GRID
SIDE, ACROSS = 4, GRID // 4  # parts of a row of a block, and blocks of a row of an object
BLOCKS = ACROSS * ACROSS
LATENTS = 4 * FINE * FINE  # of a part
NUMBERS = LATENTS + 1  # of a part: sums of its latents, and how far the object covers the cell
HALF = SIDE * SIDE // 2  # parts of half a block, the upper rows or the lower ones
KEPT = 88  # sums of a half's numbers
BLOCK = 2 * KEPT  # sums of a block
COLOUR = 4  # numbers of a colour
NUMBERS_SHARE, MARKS_SHARE, COLOUR_SHARE = 0.75, 0.1, 0.05  # of a block's token, squared; the first on average
MARK_GAIN = 3.5  # size of a part's marks, before the layer norm
PART_GAIN = 4.0  # how much larger a part's numbers are than in its block's token, which has less room
LAST_GAIN = 10.0  # the last six of its latents' sums, which are small and draw outlines
COLOUR_GAIN = 1.6  # and its colour
MARKS = BLOCK  # the first direction in a block's token after its numbers
LEFT = MARKS + 2 * ACROSS + 2
COLOURED = LEFT + 1
FIRST_TEN, COVER = 10, LATENTS  # numbers that a half's sums are named after: ten of a part's latents, and its cover
FEW = 5  # of a part's numbers, which come before its marks
PART_MARKS = FEW
PART_COLOUR = PART_MARKS + 2 * GRID + 3  # first of the colour's directions in a part's token
AFTER = PART_COLOUR + COLOUR
NUMBERS_AT = (  # a part's numbers': ten, the others, and the cover
    *range(FEW),
    *range(AFTER, AFTER + FIRST_TEN - FEW),
    *range(AFTER + FIRST_TEN - FEW + 1, AFTER + NUMBERS - FEW),
    AFTER + FIRST_TEN - FEW,
)
FIRST_WHOLE, SECOND_WHOLE = WORDS, WORDS + BLOCKS
GROUND, LAYOUT = WORDS + 2 * BLOCKS, WORDS + 2 * BLOCKS + 1
PREFIX = LAYOUT + 1  # tokens up to here hold everything; the parts after them hold it again, one cell a token
FIRST, SECOND = PREFIX, PREFIX + PARTS
LENGTH = SECOND + PARTS


class Cards(Protocol):
    """Painter of objects on plain paper: pixels (B, 3, S, S) of -1..1, and how far the object covers each, 0..1."""

    def cards(self, concepts: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]: ...


class Codes:
    """Tables of codes on one device; the last row of every table stands for "none", or for the object's own colour."""

    def __init__(
        self, numbers: Tensor, axes: Tensor, colour: Tensor, ground: Tensor, layout: Tensor, word: Tensor
    ) -> None:
        self.numbers = numbers  # (concepts + 1, BLOCKS, BLOCK)
        self.axes = axes  # (KEPT, HALF * NUMBERS), orthonormal: what a half's sums are sums of
        self.colour = colour  # (colours + 1, COLOUR), all of one length
        self.ground = ground  # (grounds + 1, WIDTH)
        self.layout = layout  # (layouts + 1, WIDTH)
        self.word = word  # (WIDTH,), what every word position should become
        self.rest = torch.stack([_rest(which).to(word.device) for which in range(2)])  # (2, BLOCKS, WIDTH)

    def whole(self, which: int, concept: Tensor, colour: Tensor) -> Tensor:
        """(B,) concepts and colours to (B, BLOCKS, WIDTH), as the first (0) or the second object (1)."""
        rows, numbers = basis(self.word.device), self.numbers[concept]
        left = WIDTH * (1 - MARKS_SHARE - COLOUR_SHARE) - numbers.square().sum(-1, keepdim=True)
        tinted = self.colour[colour] @ rows[COLOURED : COLOURED + COLOUR]
        return numbers @ rows[:BLOCK] + self.rest[which] + left.clamp(min=0).sqrt() * rows[LEFT] + tinted[:, None]

    def prefix(self, labels: Tensor) -> Tensor:
        """(B, 6) labels, -1 for none, to (B, PREFIX, WIDTH): all tokens but the parts."""
        layout, ground, first, first_colour, second, second_colour = labels.unbind(1)
        words = self.word.expand(len(labels), WORDS, WIDTH)
        objects = self.whole(0, first, first_colour), self.whole(1, second, second_colour)
        return torch.cat((words, *objects, torch.stack((self.ground[ground], self.layout[layout]), 1)), 1)

    def tokens(self, labels: Tensor) -> Tensor:
        """(B, 6) labels, -1 for none, to (B, LENGTH, WIDTH)."""
        _, _, first, first_colour, second, second_colour = labels.unbind(1)
        parts = [
            part_tokens(self.numbers[concept], self.colour[colour][:, None].expand(-1, BLOCKS, -1), which, self.axes)
            for which, (concept, colour) in enumerate(((first, first_colour), (second, second_colour)))
        ]
        return torch.cat((self.prefix(labels), *parts), 1)

    def nothing(self) -> Tensor:
        """(1, LENGTH, WIDTH): the code of an empty prompt."""
        return self.tokens(torch.full((1, 6), -1, device=self.word.device))


def make(cards: Cards, concepts: int, encoder: nn.Module, colours: Tensor, grounds: int, layouts: int) -> Codes:
    """The tables of so many concepts, grounds and layouts; ``colours`` are (C, 3), of 0..1.

    Grounds and layouts get random codes from a fixed seed, the same wherever the tables are made.
    """
    every = torch.arange(concepts, device=colours.device)
    rows = [mosaics(cards, encoder, some) for some in torch.split(every, 64)]
    found = _sums(torch.cat(rows))
    found = torch.cat((found, found.new_zeros(1, PARTS, NUMBERS)))  # none: nothing covers anything
    axes = half_axes(found)
    generator = torch.Generator().manual_seed(6)

    def random_rows(count: int) -> Tensor:
        made = torch.randn(count, WIDTH, generator=generator)
        made = made - made.mean(-1, keepdim=True)
        scaled: Tensor = made / made.norm(dim=-1, keepdim=True) * WIDTH**0.5
        return scaled.to(colours.device)

    named, laid = random_rows(grounds + 1), random_rows(layouts + 1)
    tinted = colour_codes(colours.cpu()).to(colours.device)
    return Codes(_bounded(blocks(found, axes)), axes, tinted, named, laid, random_rows(1)[0])


@torch.no_grad()
def mosaics(cards: Cards, encoder: nn.Module, concepts: Tensor) -> Tensor:
    """(B, PARTS, 17): the objects' latents on plain paper, minus the paper's, and how far they cover each cell."""
    pixels, covers = cards.cards(concepts, torch.full_like(concepts, -1))
    paper = pixels[:1, :, :1, :1].expand(1, -1, *pixels.shape[2:])
    latents = encoder(pixels).float() - encoder(paper.contiguous()).float()
    latents = F.pixel_unshuffle(latents, FINE)
    covers = F.adaptive_avg_pool2d(covers.float().view(len(pixels), 1, *pixels.shape[2:]), latents.shape[-1])
    edge = (latents.shape[-1] - GRID) // 2
    cells = torch.cat((latents, 2 * covers), 1)[:, :, edge : edge + GRID, edge : edge + GRID]
    return cells.flatten(2).mT


def _sums(found: Tensor) -> Tensor:
    """(N, PARTS, NUMBERS), latents as their principal components, the largest first.

    Which sign a component has is chosen by its largest share, so that the tables are the same on every machine.
    """
    latents, covers = found[..., :-1], found[..., -1:]
    seen = latents.flatten(0, 1).double()
    _, axes = torch.linalg.eigh(seen.T @ seen)
    axes = axes.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    made = latents @ (axes * largest.sign()).float()
    made = made / made[..., 0].square().mean().sqrt().clamp(min=1e-6)
    return torch.cat((made, covers / covers.square().mean().sqrt().clamp(min=1e-6)), -1)


def half_axes(found: Tensor) -> Tensor:
    """(KEPT, HALF * NUMBERS): the sums of a half's numbers that keep most of (N, PARTS, NUMBERS).

    They span what the principal components do, turned to where each is as much as can be one number of one part: the
    first ten of its latents, or its cover. So they do not hang on what the tables' last digits are. (Of the latents'
    variance 0.987 is kept; ten numbers of each part alone would keep 0.952, and outlines wobbled.)
    """
    seen = _halves(found).flatten(0, 1).double()
    _, components = torch.linalg.eigh(seen.T @ seen)
    components = components[:, -KEPT:]  # (HALF * NUMBERS, KEPT)
    named = torch.arange(HALF)[:, None] * NUMBERS + torch.tensor([*range(FIRST_TEN), COVER])
    left, _, right = torch.linalg.svd(components[named.flatten().to(found.device)].T)
    axes: Tensor = (components @ left @ right).T.float()
    return axes


def _halves(found: Tensor) -> Tensor:
    """(N, PARTS, NUMBERS) to (N, 2 * BLOCKS, HALF * NUMBERS): block by block, the upper half first."""
    laid = found.view(-1, ACROSS, SIDE, ACROSS, SIDE, NUMBERS).transpose(2, 3)
    return laid.reshape(len(found), 2 * BLOCKS, -1)


def colour_codes(colours: Tensor) -> Tensor:
    """(C, 3) colours to (C + 1, COLOUR) points on a sphere, far from each other; the last, its pole, is "own".

    They start where their own red, green and blue put them, so that like colours stay neighbours, and push each other
    apart. All have one length: the analytic layer counts on a token's length.
    """
    at = 2.4 * (colours.double() - 0.5)
    far = at.square().sum(-1, keepdim=True)
    points = torch.cat((2 * at, far - 1), 1) / (far + 1)  # the sphere seen from its pole
    pole = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    for _ in range(400):
        every = torch.cat((points, pole))
        apart = points[:, None] - every
        near = apart.square().sum(-1, keepdim=True)
        push = (apart / (near * near).clamp(min=1e-6)).masked_fill(near < 1e-12, 0).sum(1)
        points = F.normalize(points + 0.01 * push / push.norm(dim=-1, keepdim=True).clamp(min=1), dim=-1)
    placed: Tensor = (torch.cat((points, pole)) * (COLOUR_SHARE * WIDTH) ** 0.5).float()
    return placed


def blocks(found: Tensor, axes: Tensor) -> Tensor:
    """(N, PARTS, NUMBERS) to (N, BLOCKS, BLOCK): the sums of each half."""
    return (_halves(found) @ axes.T).view(len(found), BLOCKS, BLOCK)


def parts_of(numbers: Tensor, axes: Tensor) -> Tensor:
    """The way back: (N, BLOCKS, BLOCK) to (N, PARTS, NUMBERS), as far as the sums keep them."""
    halves = numbers.view(len(numbers), 2 * BLOCKS, KEPT) @ axes
    laid = halves.view(-1, ACROSS, ACROSS, SIDE, SIDE, NUMBERS).transpose(2, 3)
    return laid.reshape(len(numbers), PARTS, NUMBERS)


def block_numbers(whole: Tensor) -> Tensor:
    """(N, BLOCKS, WIDTH) tokens to (N, BLOCKS, BLOCK): the sums of their parts' numbers, read back."""
    numbers: Tensor = whole @ basis(whole.device)[:BLOCK].T
    return numbers


def block_colours(whole: Tensor) -> Tensor:
    """(N, BLOCKS, WIDTH) tokens to (N, BLOCKS, COLOUR): their colours, read back."""
    found: Tensor = whole @ basis(whole.device)[COLOURED : COLOURED + COLOUR].T
    return found


def part_tokens(numbers: Tensor, colour: Tensor, which: int, axes: Tensor) -> Tensor:
    """(N, BLOCKS, BLOCK) and (N, BLOCKS, COLOUR), as read back, to (N, PARTS, WIDTH) tokens of the parts.

    Each number takes one direction of the basis, then come the marks, then a direction that all parts share, then the
    colour's. A layer norm follows. Before it, the tokens are linear in the blocks' tokens.
    """
    rows = basis(numbers.device)
    tinted = colour @ (COLOUR_GAIN * rows[PART_COLOUR : PART_COLOUR + COLOUR])  # (N, BLOCKS, WIDTH)
    tinted = tinted.view(-1, ACROSS, 1, ACROSS, 1, WIDTH)
    tinted = tinted.expand(-1, ACROSS, SIDE, ACROSS, SIDE, WIDTH).reshape(-1, PARTS, WIDTH)
    made = parts_of(numbers, axes) @ number_rows(numbers.device) + part_slots(which, numbers.device) + tinted
    return F.layer_norm(made, (WIDTH,))


@functools.cache
def number_rows(device: torch.device | str = "cpu") -> Tensor:
    """(NUMBERS, WIDTH): what a part's token has of each of its numbers, before the layer norm."""
    if torch.device(device).type != "cpu":
        return number_rows().to(device)
    gains = torch.full((NUMBERS, 1), PART_GAIN)
    gains[FIRST_TEN:LATENTS] = LAST_GAIN
    return gains * basis()[list(NUMBERS_AT)]


@functools.cache
def part_slots(which: int, device: torch.device | str = "cpu") -> Tensor:
    """(PARTS, WIDTH): the parts' tokens without their numbers, before the layer norm."""
    if torch.device(device).type != "cpu":
        return part_slots(which).to(device)
    marks = torch.cat((_marks(which, GRID), torch.full((PARTS, 1), 2.0)), 1)
    return MARK_GAIN * marks @ basis()[PART_MARKS : PART_MARKS + marks.shape[1]]


def _bounded(numbers: Tensor) -> Tensor:
    """(N, BLOCKS, M) numbers, scaled to take their share of a block's token on average and all there is at most."""
    scaled: Tensor = numbers * (NUMBERS_SHARE * WIDTH / numbers[:-1].square().sum(-1).mean()) ** 0.5
    long: Tensor = scaled.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    most = WIDTH * (1 - MARKS_SHARE - COLOUR_SHARE)
    return scaled * (long.clamp(max=most**0.5) / long)


def _rest(which: int) -> Tensor:
    """(BLOCKS, WIDTH): the marks of an object's blocks.

    Numbers, marks and colour are written in fixed directions of mean 0, so that a layer norm leaves them as they are.
    One more direction takes what is left of the length that a layer norm gives.
    """
    marks = _marks(which, ACROSS)
    marks = marks * (MARKS_SHARE * WIDTH / marks.square().sum(-1, keepdim=True)) ** 0.5
    return marks @ basis()[MARKS : MARKS + marks.shape[1]]


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
    waves_and_object: Tensor = 0.4 * blocks @ basis()[PART_MARKS : PART_MARKS + 2 * GRID + 2]
    return waves_and_object


@functools.cache
def basis(device: torch.device | str = "cpu") -> Tensor:  # (WIDTH - 1, WIDTH)
    """Orthonormal directions that codes are written in, each of mean 0."""
    if torch.device(device).type != "cpu":
        return basis().to(device)
    noise = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5))
    noise[0] = 1
    rows: Tensor = torch.linalg.qr(noise.T)[0].T[1:]
    return rows
