"""Sprites: the objects' pixels at the sizes in which they are laid, ready to be looked up one by one.

Knows the art and its colours; knows neither layouts nor labels' meaning. Only pixels that an object covers are kept:
each object at each size is a run of rows in one table.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .. import colours
from ..scenes import SIDES
from . import oklab, recolouring
from .archive import Archive
from .recolouring import MainParts

CELL = 8  # pixels of a cell at scale 1
CHUNK = 8  # objects at a time: more do not fit into a processor's cache
COARSE, COARSER = 64, 32  # pixels of a side at which main parts and mean colours are judged
COVERED = 1 / 256  # alpha from which a pixel is kept
NEAR = 0.11  # how far from a colour's value an object may be and still be called so


class Sprites:
    """All objects at all sizes of one scale."""

    def __init__(self, archive: Archive, parts: MainParts, device: torch.device, scale: int = 1) -> None:
        self.middles, self.targets = parts.lightness[:, 0], targets(device)
        count = len(archive.sprites)
        self.counts = torch.zeros(max(SIDES) + 1, count, dtype=torch.long)  # by side in cells and object, on the CPU
        places, rgba, prepared = [], [], []
        for side in SIDES:
            for at in range(0, count, CHUNK):
                some = slice(at, at + CHUNK)
                rows = resize(archive.sprites[some].to(device), side * CELL * scale)
                covered = rows[:, 3] > COVERED
                self.counts[side, some] = covered.sum((1, 2)).cpu()
                owner, down, across = covered.nonzero(as_tuple=True)
                places.append(torch.stack((down, across), 1).to(torch.int16))
                pixels = rows.permute(0, 2, 3, 1)[covered]
                rgba.append((pixels * 255).round().byte())
                lab = oklab.encode(pixels[:, :3].T.contiguous())
                numbers = recolouring.prepare(lab[..., None], parts.some(at + owner))
                prepared.append(numbers[..., 0].T.half())
        self.places, self.rgba, self.prepared = torch.cat(places), torch.cat(rgba), torch.cat(prepared)
        flat = self.counts.flatten()
        self.starts = (flat.cumsum(0) - flat).view_as(self.counts)

    def own(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) places in the table to (P, 3) sRGB and (P, 1) alpha, in 0..1."""
        rows = self.rgba[source].float().div_(255)
        return rows[:, :3], rows[:, 3:]

    def recoloured(self, source: Tensor, concept: Tensor, colour: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The same of objects in other colours: (M,) concepts, colours and numbers of pixels."""
        moved = recolouring.moves(self.middles[concept], self.targets[colour])
        moved = torch.repeat_interleave(moved, sizes, 1, output_size=len(source))
        rgb = oklab.decode(recolouring.apply(self.prepared[source].T.float(), moved))
        return rgb.T, self.rgba[source, 3:].float().div_(255)


def resize(sprites: Tensor, side: int) -> Tensor:
    """(N, 4, S, S) uint8 to (N, 4, side, side) in 0..1, straight alpha: pixels count as much as they cover."""
    rows = sprites.float() / 255
    rows[:, :3] *= rows[:, 3:]
    while rows.shape[2] >= 2 * side and rows.shape[2] % 2 == 0:
        rows = F.avg_pool2d(rows, 2)
    if rows.shape[2] != side:
        rows = F.interpolate(rows, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    alpha = rows[:, 3:]
    return torch.cat(((rows[:, :3] / alpha.clamp(min=1e-3)).clamp(max=1), alpha), 1)


def small(archive: Archive, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(3, N, side * side) lightness, a and b, and (N, side * side) alpha of all objects."""
    chunks = range(0, len(archive.sprites), CHUNK)
    rows = torch.cat([resize(archive.sprites[at : at + CHUNK].to(device), side) for at in chunks]).flatten(2)
    return oklab.encode(rows[:, :3].transpose(0, 1)), rows[:, 3]


def main_parts(archive: Archive, device: torch.device) -> MainParts:
    """The main parts of all objects."""
    lab, alpha = small(archive, COARSE, device)
    lightness, a, b = lab
    return recolouring.find(lightness, a, b, alpha, archive.kinds.to(device))


def mean_colours(archive: Archive, parts: MainParts, device: torch.device) -> Tensor:
    """(N, colours + 1, 3): mean lightness, a and b of every object in every colour, its own at the end."""
    lab, alpha = small(archive, COARSER, device)
    prepared = recolouring.prepare(lab, parts).flatten(1)
    means = []
    for target in [*targets(device), None]:
        made = lab
        if target is not None:
            moved = recolouring.moves(parts.lightness[:, 0], target.expand(len(alpha), 3))
            made = recolouring.apply(prepared, moved.repeat_interleave(alpha.shape[1], 1)).view_as(lab)
        means.append(((made * alpha).sum(2) / alpha.sum(1)).T)
    return torch.stack(means, 1)


def own_colours(parts: MainParts, device: torch.device) -> Tensor:
    """(N,): the colour that an object has already, -1 where none is near."""
    middle = torch.stack((parts.lightness, parts.a, parts.b), -1)[:, 0]
    far = (middle[:, None] - targets(device)).mul(torch.tensor((0.7, 1.0, 1.0), device=device)).norm(dim=-1)
    nearest, colour = far.min(1)
    named: Tensor = colour.where((nearest < NEAR) & (parts.there[:, 1] == 0), -1)
    return named


def targets(device: torch.device) -> Tensor:
    """(colours, 3): lightness, a and b."""
    return oklab.of_rgb(torch.tensor([colour.rgb for colour in colours.COLOURS], device=device))
