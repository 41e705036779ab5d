"""Stand-ins for the art: a maker of samples that paints discs, fast and small."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training import codes
from training.scenes import LAYOUTS, MAX_OBJECTS

OBJECTS, COLOURS, VOCABULARY = 6, 4, 40


@dataclass(frozen=True)
class DiscSamples:
    """Pictures of one disc each, with what they show."""

    pixels: Tensor
    labels: Tensor
    boxes: Tensor
    hues: Tensor


class DiscMaker:
    """Maker of discs; their hue is the object, their size is the colour."""

    def __init__(self, seed: int = 1) -> None:
        self.random = torch.Generator().manual_seed(seed)

    def labels(self, size: int) -> Tensor:
        first = torch.randint(0, OBJECTS, (size,), generator=self.random)
        colour = torch.randint(-1, COLOURS, (size,), generator=self.random)
        none = torch.full((size,), -1)
        single = torch.full((size,), LAYOUTS.index("single"))
        return torch.stack((single, torch.zeros(size, dtype=torch.long), first, colour, none, none), 1)

    def draw(
        self, size: int, cells: tuple[int, int] = (16, 16), scale: int = 1, several: float | None = None
    ) -> DiscSamples:
        labels = self.labels(size)
        boxes = torch.full((size, MAX_OBJECTS, 4), -1)
        boxes[:, 0] = torch.tensor([0, 2, 2, 8])
        height, width = (8 * scale * side for side in cells)
        pixels = _discs(labels[:, 2], labels[:, 3], height, width, 8 * scale)
        return DiscSamples(pixels, labels, boxes, torch.full((size,), torch.nan))

    def captions(self, labels: Tensor) -> Tensor:
        ids = torch.full((len(labels), codes.WORDS), VOCABULARY - 1)
        ids[:, 0] = VOCABULARY - 2
        ids[:, 1], ids[:, 2] = labels[:, 2] + 1, labels[:, 3] + 12
        return ids

    def cards(self, concepts: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        pixels = _discs(concepts, colours, 128, 128, 8)
        return pixels, (pixels - 0.8).abs().amax(1).gt(0.01).float()


def _discs(concepts: Tensor, colours: Tensor, height: int, width: int, cell: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    far = torch.hypot(rows - 6.0 * cell, columns - 6.0 * cell)
    inside = (far < (2.5 + 0.3 * colours.view(-1, 1, 1)) * cell)[:, None]
    hue = concepts.view(-1, 1, 1, 1) + torch.tensor([0.0, 2.0, 4.0]).view(1, 3, 1, 1)
    return torch.where(inside, torch.cos(hue), torch.tensor(0.8))
