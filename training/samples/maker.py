"""The maker of samples: random scenes as pictures, labels and captions, a batch at a time, on one device.

Knows the archive, layouts and grounds; knows nothing of networks. What a scene shows is drawn on the processor, where
it costs nothing and tells how many pixels there are to lay; everything that is done to pixels and tokens is done on
the device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import colours, grounds
from ..scenes import CELLS, GROUND_SHARES, LAYOUT_SHARES, LAYOUTS, MAX_OBJECTS, PAIRS, arrangement, box_rows
from . import oklab, sprites
from .archive import Archive
from .captions import WORDS, Captions
from .painting import Grounds, middles
from .sprites import CELL, Sprites

RECOLOURED_SHARE = 0.5  # of objects
DESCRIBED_SHARES = (0.60, 0.12, 0.06, 0.09, 0.04, 0.04, 0.03, 0.02)  # of layouts, for the text encoder
NOTHING_SHARE = 0.03  # of captions for the text encoder: they describe nothing
TOO_NEAR = 0.22  # a ground's distance from an object, in Oklab, under which another ground is drawn
GROUND_TRIES = 4
PAPER = (232, 232, 236)  # what an object lies on while its code is taken
CARD, CARD_SIDE = 16, 12  # cells of a card, and of the object on it
COLOURS = len(colours.NAMES)


@dataclass(frozen=True)
class Samples:
    """A batch of pictures and what they show."""

    pixels: Tensor  # (B, 3, H * scale, W * scale), -1..1; H and W are 8 times the cells
    labels: Tensor  # (B, 6) layout, ground, first, its colour, second, its colour; -1 for none, or its own colour
    boxes: Tensor  # (B, MAX_OBJECTS, 4) which of the two, left, top, side, in cells; rows of -1 for none
    hues: Tensor  # (B,) angles of pastels' hues, 0..2 pi; NaN for other grounds


class SampleMaker:
    """Maker of samples. ``held_out`` (K, 2) are pairs of concept and colour that are never made nor described."""

    def __init__(self, archive: Archive, device: torch.device, seed: int, held_out: Tensor | None = None) -> None:
        self.archive, self.device, self.count = archive, device, len(archive.names)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.plans = torch.Generator().manual_seed(seed + 1)  # of what scenes show
        self.parts = sprites.main_parts(archive, device)
        self.means = sprites.mean_colours(archive, self.parts, device).cpu()
        self.allowed = archive.recolourable.bool()[:, None].repeat(1, COLOURS)
        own = sprites.own_colours(self.parts, device).cpu()
        if held_out is not None and len(held_out):
            self.allowed[held_out[:, 0], held_out[:, 1]] = False
        own = own.where(self.allowed.gather(1, own.clamp(min=0)[:, None])[:, 0], -1)
        self.own = own  # (N,) the colour that an object has already, -1 where none can be named
        self.grounds = Grounds(self.generator)
        self.writer = Captions(archive.phrases, own, archive.start, archive.end, self.generator)
        self.stores: dict[int, Sprites] = {}
        self.ground_means = oklab.of_rgb(middles())

    def draw(
        self, size: int, cells: tuple[int, int] = (CELLS, CELLS), scale: int = 1, several: float | None = None
    ) -> Samples:
        """Random pictures of so many rows and columns of latents; ``several`` is the share not of one object alone."""
        shares = torch.tensor(LAYOUT_SHARES)
        if several is not None:
            shares = torch.cat((torch.tensor([1 - several]), several * shares[1:] / shares[1:].sum()))
        labels = self._labels(size, shares)
        boxes = self._boxes(labels[:, 0], cells)
        pixels, hues = self._pixels(labels, boxes, cells, scale)
        return Samples(pixels, self._sent(labels), self._sent(boxes), hues)

    def labels(self, size: int) -> Tensor:
        """(B, 6) labels of what is only described, for the text encoder; some rows are -1 everywhere."""
        labels = self._labels(size, torch.tensor(DESCRIBED_SHARES))
        labels[self._chance(size) < NOTHING_SHARE] = -1
        return self._sent(labels)

    def captions(self, labels: Tensor, length: int = WORDS) -> Tensor:
        """(B, 6) labels to (B, length) token ids; labels of -1 everywhere get empty or meaningless prompts."""
        return self.writer.write(labels, length)

    def cards(self, concepts: Tensor, tints: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 128, 128) pixels, -1..1, of objects in colours on plain paper; and (B, 1, 128, 128) their cover.

        A colour of -1 is the object's own.
        """
        count, edge = len(concepts), (CARD - CARD_SIDE) // 2
        labels = torch.full((count, 6), -1)
        labels[:, 2], labels[:, 3] = concepts.cpu(), tints.cpu()
        boxes = torch.full((count, MAX_OBJECTS, 4), -1)
        boxes[:, 0] = torch.tensor((0, edge, edge, CARD_SIDE))
        side = CARD * CELL
        paper = torch.tensor(PAPER, device=self.device) / 255
        made = [base.expand(count, side * side, 3).reshape(-1, 3).clone() for base in (paper, torch.zeros_like(paper))]
        self._lay(made, labels, boxes, (CARD, CARD), 1)
        pixels, cover = (rows.view(count, side, side, 3).permute(0, 3, 1, 2) for rows in made)
        return pixels * 2 - 1, cover[:, :1]

    # What a scene shows

    def _labels(self, size: int, shares: Tensor) -> Tensor:
        layout = torch.multinomial(shares, size, replacement=True, generator=self.plans)
        first = self._integers(self.count, size)
        second = (first + 1 + self._integers(self.count - 1, size)) % self.count
        empty = layout == LAYOUTS.index("empty")
        first = first.where(~empty, -1)
        pair = torch.stack([layout == LAYOUTS.index(name) for name in PAIRS]).any(0)
        second = second.where(pair, -1)
        tints = [self._colour(which) for which in (first, second)]
        ground = self._ground(layout, (first, second), tints)
        return torch.stack((layout, ground, first, tints[0], second, tints[1]), 1)

    def _colour(self, concept: Tensor) -> Tensor:
        """A colour for each object, -1 for its own."""
        colour = self._integers(COLOURS, len(concept))
        said = (self._chance(len(concept)) < RECOLOURED_SHARE) & (concept >= 0)
        return colour.where(said & self.allowed[concept.clamp(min=0), colour], -1)

    def _ground(self, layout: Tensor, shown: tuple[Tensor, Tensor], tints: list[Tensor]) -> Tensor:
        """A ground for each scene, from which its objects stand out."""
        empty = layout == LAYOUTS.index("empty")
        means = [self.means[which.clamp(min=0), tint] for which, tint in zip(shown, tints, strict=True)]
        chosen = self._any_ground(len(layout), empty)
        for _ in range(GROUND_TRIES - 1):
            ground = self.ground_means[chosen]
            near = [(ground - mean).norm(dim=1) < TOO_NEAR for mean in means]
            again = (near[0] & (shown[0] >= 0) | near[1] & (shown[1] >= 0)) & (chosen > 0)
            chosen = torch.where(again, self._any_ground(len(layout), empty), chosen)
        return chosen

    def _any_ground(self, size: int, empty: Tensor) -> Tensor:
        kind = torch.multinomial(torch.tensor(GROUND_SHARES), size, replacement=True, generator=self.plans)
        kind = kind.where(~empty | (kind > 0), 1)
        colour, scene = self._integers(len(grounds.COLOURS), size), self._integers(len(grounds.SCENES), size)
        ground = torch.where(kind == 1, 1 + colour, 1 + len(grounds.COLOURS) + scene)
        return ground.where(kind > 0, 0)

    def _boxes(self, layouts: Tensor, cells: tuple[int, int]) -> Tensor:
        return torch.stack([box_rows(arrangement(layout, cells)) for layout in LAYOUTS])[layouts]

    # Pixels

    def _pixels(self, labels: Tensor, boxes: Tensor, cells: tuple[int, int], scale: int) -> tuple[Tensor, Tensor]:
        height, width = (side * CELL * scale for side in cells)
        means = [self.means[labels[:, at].clamp(min=0), labels[:, at + 1]] for at in (2, 4)]
        second = (labels[:, 4] >= 0) & (means[1][:, 0] > means[0][:, 0])
        palest = torch.where(second[:, None], means[1], means[0])
        canvas, hues = self.grounds.paint(labels[:, 1], self._sent(palest), height, width)
        self._lay([canvas.view(-1, 3)], labels, boxes, cells, scale)
        return canvas.permute(0, 3, 1, 2) * 2 - 1, hues

    def _lay(self, canvases: list[Tensor], labels: Tensor, boxes: Tensor, cells: tuple[int, int], scale: int) -> None:
        """Lay the objects onto (B * H * W, 3) canvases in place: onto the first in colours, onto a second in white."""
        store = self._store(scale)
        height, width = (side * CELL * scale for side in cells)
        # 1. The objects, those behind first, recoloured ones together.
        sample, level = (boxes[..., 3] > 0).nonzero(as_tuple=True)
        which, left, top, side = boxes[sample, level].unbind(1)
        concept, colour = labels[sample, 2 + 2 * which], labels[sample, 3 + 2 * which]
        corner = (sample * height + top * CELL * scale) * width + left * CELL * scale
        group = 2 * level + (colour < 0)
        order = group.argsort(stable=True)
        sizes = store.counts[side, concept][order]
        begins = sizes.cumsum(0) - sizes
        table = torch.stack((store.starts[side, concept][order] - begins, corner[order]))
        objects = [0, *torch.bincount(group, minlength=2 * MAX_OBJECTS).cumsum(0).tolist()]
        pixels = torch.cat((begins, sizes.sum(0, keepdim=True)))[objects].tolist()
        # 2. Their pixels: where they come from and where they go.
        concept, colour, sizes = self._sent(torch.stack((concept[order], colour[order], sizes))).unbind(0)
        shift, base = torch.repeat_interleave(self._sent(table), sizes, 1, output_size=pixels[-1]).unbind(0)
        source = torch.arange(pixels[-1], device=self.device) + shift
        down, across = store.places[source].long().unbind(1)
        target = base + down * width + across
        # 3. Lay them, level by level, so that no level has two pixels at one place.
        for n in range(0, 2 * MAX_OBJECTS, 2):
            tinted, some = slice(pixels[n], pixels[n + 1]), slice(objects[n], objects[n + 1])
            own = slice(pixels[n + 1], pixels[n + 2])
            laid = [store.own(source[own])]
            if tinted.start < tinted.stop:
                laid.insert(0, store.recoloured(source[tinted], concept[some], colour[some], sizes[some]))
            paint, alpha = (torch.cat(both) for both in zip(*laid, strict=True))
            places = target[tinted.start : own.stop]
            for canvas, laid_on in zip(canvases, (paint, torch.ones_like(paint)), strict=False):
                canvas.index_copy_(0, places, torch.lerp(canvas[places], laid_on, alpha))

    def _store(self, scale: int) -> Sprites:
        if scale not in self.stores:
            self.stores[scale] = Sprites(self.archive, self.parts, self.device, scale)
        return self.stores[scale]

    # Randomness

    def _integers(self, limit: int, size: int) -> Tensor:
        return torch.randint(limit, (size,), generator=self.plans)

    def _chance(self, size: int) -> Tensor:
        return torch.rand(size, generator=self.plans)

    def _sent(self, table: Tensor) -> Tensor:
        return table.to(self.device, non_blocking=True)
