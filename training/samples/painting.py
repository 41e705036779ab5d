"""Painting: the grounds of a batch of samples, on the device.

Pastels and plain colours are painted for every sample; scenes are taken from paintings made once. Knows grounds; knows
of objects only their mean colour, so that they stand out from a ground that nobody asked for.
"""

import numpy as np
import torch
from torch import Tensor

from .. import grounds
from . import oklab

SCENE_VARIANTS = 32  # paintings of every scene
PALE = 0.78  # lightness of an object that a pastel ground would swallow
SEED = 7  # of the paintings: those of one size are always the same


class Grounds:
    """Painter of grounds; every random choice comes from the generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.device = generator, generator.device
        self.scenes: dict[tuple[int, int], Tensor] = {}
        values = torch.tensor([(0, 0, 0), *grounds.COLOURS.values()], device=self.device)
        self.colours = torch.cat((values, values[:1].expand(len(grounds.SCENES), 3))) / 255  # by ground
        self.dark = self._index("black")
        self.light = self._index("white")

    def paint(self, grounds_: Tensor, shown: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(B, H, W, 3) in 0..1: a painting for each ground; ``shown`` (B, 3) are the palest object's mean lightness,
        a and b. And the angle of each pastel's hue, (B,), 0..2 pi, NaN for other grounds: that one or the opposite.

        The grounds, (B,), come on the processor: so it is known how many are scenes.
        """
        ground = grounds_.to(self.device, non_blocking=True)
        chance = torch.rand(len(ground), 12, generator=self.generator, device=self.device)
        plain, pastel = self._plain(ground, chance, height), self._pastel(shown, chance, height)
        rows = torch.where((ground == 0)[:, None, None], pastel, plain).clamp(0, 1)
        picture = rows[:, :, None].expand(-1, -1, width, -1).contiguous()
        first = 1 + len(grounds.COLOURS)
        scenes = (grounds_ >= first).nonzero()[:, 0].to(self.device, non_blocking=True)
        variant = (chance[scenes, 0] * 2 * SCENE_VARIANTS).long()
        drawn = self._paintings(height, width)[(ground[scenes] - first) * 2 * SCENE_VARIANTS + variant]
        hues = torch.where(ground == 0, 2 * torch.pi * chance[:, 2], torch.nan)
        return picture.index_copy_(0, scenes, drawn.float().div_(255)), hues

    def _plain(self, ground: Tensor, chance: Tensor, height: int) -> Tensor:
        """(B, H, 3): the ground's colour, a little lighter above, and each time in another shade."""
        at = torch.linspace(0, 1, height, device=self.device)[:, None]
        top, low = 0.98 + 0.10 * chance[:, 2, None, None], 0.90 + 0.10 * chance[:, 3, None, None]
        tint = 1 + 0.14 * (chance[:, 4, None] - 0.5) + 0.06 * (chance[:, 5:8] - 0.5)
        lift = 0.05 * chance[:, 8, None, None] * (ground == self.dark)[:, None, None]
        shaded = (self.colours[ground][:, None] * torch.lerp(top, low, at) + lift) * tint[:, None]
        white = self.colours[ground][:, None] * (0.97 + 0.03 * chance[:, 2, None, None])
        return torch.where((ground == self.light)[:, None, None], white, shaded)

    def _pastel(self, shown: Tensor, chance: Tensor, height: int) -> Tensor:
        """(B, H, 3): any hue, light behind a dark object, of middle lightness behind a pale one.

        Of a hue and the opposite one it is that which is farther from the object's colour.
        """
        at = torch.linspace(0, 1, height, device=self.device)[:, None]
        phase = 2 * torch.pi * (chance[:, 2, None] + torch.arange(3, device=self.device) / 3)
        pale = (shown[:, 0] + 0.06 * (chance[:, 3] - 0.5) > PALE)[:, None]
        middle, reach = torch.where(pale, 0.50 + 0.10 * chance[:, 4, None], 0.86), torch.where(pale, 0.17, 0.11)
        one, other = (middle + sign * reach * phase.cos() for sign in (1, -1))
        own = oklab.decode(shown.T).T
        top = torch.where(((one - own).norm(dim=1) > (other - own).norm(dim=1))[:, None], one, other)
        low = top - 0.06 + 0.09 * chance[:, 8:11]
        return torch.lerp(top[:, None], low[:, None], at)

    def _paintings(self, height: int, width: int) -> Tensor:
        """(scenes * variants, H, W, 3) uint8: each painting and its mirror image."""
        if (height, width) not in self.scenes:
            rng = np.random.default_rng(SEED)
            first = 1 + len(grounds.COLOURS)
            made = [
                [grounds.paint(first + n, rng, height, width) for _ in range(SCENE_VARIANTS)]
                for n in range(len(grounds.SCENES))
            ]
            rows = torch.from_numpy((np.array(made) * 255 + 0.5).astype(np.uint8)).to(self.device)
            self.scenes[height, width] = torch.cat((rows, rows.flip(3)), 1).flatten(0, 1)
        return self.scenes[height, width]

    def _index(self, name: str) -> int:
        return grounds.NAMES.index(name)


def middles() -> Tensor:
    """(grounds, 3) sRGB in 0..255: the colour in the middle of each ground."""
    rng = np.random.default_rng(SEED)
    small = [grounds.paint(n, rng, 32)[8:28].mean((0, 1)) for n in range(len(grounds.NAMES))]
    return torch.from_numpy(np.array(small) * 255)
