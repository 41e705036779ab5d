"""Sprites: the objects' pixels at the sizes in which they are laid, ready to be looked up one by one.

Knows the art and its colours; knows neither layouts nor labels' meaning. All sizes lie in one table of pixels: that of
an object at (row, column) is at ``first[size] + object * side**2 + row * side + column``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .. import colours
from ..scenes import SIDES
from . import oklab, recolouring
from .archive import Archive

CELL = 8  # pixels of a cell at scale 1
CHUNK = 32  # objects at a time
COARSE = 32  # pixels of a side at which an object's colours are judged
NEAR = 0.11  # how far from a colour's value an object may be and still be called so


class Sprites:
    """All objects at all sizes of one scale."""

    def __init__(self, archive: Archive, parts: recolouring.MainParts, device: torch.device, scale: int = 1) -> None:
        self.parts = parts.table()  # (N, 10)
        self.targets = targets(device)
        self.sides = [side * CELL * scale for side in SIDES]
        places, first = torch.zeros(max(SIDES) + 1, dtype=torch.long), 0
        count = len(archive.sprites)
        for cells, side in zip(SIDES, self.sides, strict=True):
            places[cells] = first
            first += count * side * side
        self.first = places.to(device)  # by side in cells
        self.rgba = torch.empty(first, 4, dtype=torch.uint8, device=device)
        self.lab = torch.empty(first, 5, dtype=torch.float16, device=device)  # lightness, a, b, weights of both parts
        for cells, side in zip(SIDES, self.sides, strict=True):
            for at in range(0, count, CHUNK):
                rows = resize(archive.sprites[at : at + CHUNK].to(device), side)
                own = recolouring.MainParts(*(field[at : at + CHUNK] for field in vars(parts).values()))
                channels = oklab.from_srgb(*rows[:, :3].flatten(2).unbind(1))
                start = int(places[cells]) + at * side * side
                lab = torch.stack((*channels, *recolouring.weights(*channels, own)), -1).flatten(0, 1)
                self.lab[start : start + len(lab)] = lab.half()
                pixels = (rows * 255).round().byte().flatten(2).transpose(1, 2).flatten(0, 1)
                self.rgba[start : start + len(lab)] = pixels

    def own(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) places in the table to (P, 3) sRGB and (P, 1) alpha, in 0..1."""
        rows = self.rgba[source].float().div_(255)
        return rows[:, :3], rows[:, 3:]

    def recoloured(self, source: Tensor, concept: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
        """The same in other colours; ``concept`` and ``colour`` are (P,) as well."""
        lightness, a, b, one, other = self.lab[source].float().unbind(1)
        made = recolouring.recolour(lightness, a, b, (one, other), self.parts[concept], self.targets[colour])
        return torch.stack(oklab.to_srgb(*made), 1), self.rgba[source, 3:].float().div_(255)


def resize(sprites: Tensor, side: int) -> Tensor:
    """(N, 4, S, S) uint8 to (N, 4, side, side) in 0..1, straight alpha: pixels count as much as they cover."""
    rows = sprites.float() / 255
    covered = torch.cat((rows[:, :3] * rows[:, 3:], rows[:, 3:]), 1)
    small = F.interpolate(covered, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    alpha = small[:, 3:]
    return torch.cat(((small[:, :3] / alpha.clamp(min=1e-3)).clamp(max=1), alpha), 1)


def main_parts(archive: Archive, device: torch.device) -> recolouring.MainParts:
    """The main parts of all objects."""
    rows = resize(archive.sprites.to(device), COARSE * 2)
    channels = oklab.from_srgb(*rows[:, :3].flatten(2).unbind(1))
    return recolouring.find(*channels, rows[:, 3].flatten(1), archive.kinds.to(device))


def mean_colours(archive: Archive, parts: recolouring.MainParts, device: torch.device) -> Tensor:
    """(N, colours + 1, 3): mean lightness, a and b of every object in every colour, its own at the end."""
    rows = resize(archive.sprites.to(device), COARSE)
    lightness, a, b = oklab.from_srgb(*rows[:, :3].flatten(2).unbind(1))
    alpha = rows[:, 3].flatten(1)
    weight = recolouring.weights(lightness, a, b, parts)
    table = parts.table()[:, None].expand(-1, COARSE * COARSE, -1).flatten(0, 1)
    flat = [t.flatten() for t in (lightness, a, b)]
    both = weight[0].flatten(), weight[1].flatten()
    wanted = targets(device)
    means = []
    for colour in [*wanted, None]:
        made = flat if colour is None else recolouring.recolour(*flat, both, table, colour.expand(len(table), 3))
        means.append(torch.stack([(t.view_as(alpha) * alpha).sum(1) / alpha.sum(1) for t in made], 1))
    return torch.stack(means, 1)


def own_colours(parts: recolouring.MainParts, device: torch.device) -> Tensor:
    """(N,): the colour that an object has already, -1 where none is near."""
    middle = torch.stack((parts.lightness, parts.a, parts.b), -1)[:, 0]
    far = (middle[:, None] - targets(device)).mul(torch.tensor((0.7, 1.0, 1.0), device=device)).norm(dim=-1)
    nearest, colour = far.min(1)
    named: Tensor = colour.where((nearest < NEAR) & (parts.there[:, 1] == 0), -1)
    return named


def targets(device: torch.device) -> Tensor:
    """(colours, 3): lightness, a and b."""
    return oklab.of_rgb(torch.tensor([colour.rgb for colour in colours.COLOURS], device=device))
