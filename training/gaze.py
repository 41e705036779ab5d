"""Where the UNet's attention should look: at the part of the prompt that a cell shows.

Knows the UNet's attentions, the parts' places in the prompt and where objects were laid; knows neither noise nor words.
Used while training only: nothing of it is in the model.
"""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from . import codes
from .scenes import CELLS


def part_of_cells(boxes: Tensor) -> Tensor:
    """(B, MOST, 4) boxes as of `scenes.boxes` to (B, 16, 16) places in the prompt's tokens, -1 outside."""
    at = torch.arange(CELLS)
    found = torch.full((len(boxes), CELLS, CELLS), -1)
    for box in boxes.unbind(1):
        which, left, top, side = box.unbind(1)
        across, down = at - left[:, None], at - top[:, None]  # (B, CELLS)
        tall, wide = ((cells >= 0) & (cells < side[:, None]) for cells in (down, across))
        inside = tall[:, :, None] & wide[:, None]
        row, column = ((2 * cells + 1) * codes.GRID // (2 * side[:, None].clamp(min=1)) for cells in (down, across))
        part = codes.FIRST + codes.PARTS * which[:, None, None] + codes.GRID * row[:, :, None] + column[:, None]
        found = torch.where(inside, part, found)
    return found


class Gaze:
    """Shows two attentions where to look: what every part of the prompt is of is known while training.

    In the last up block two heads of four learn to look at the part that each cell shows; a level below, where a place
    is four cells, each head learns one of them. Left to itself the network still looked everywhere at once after
    20,000 samples.
    """

    def __init__(self, net: UNet2DConditionModel, heads: int) -> None:
        self.heads = heads
        self.seen: dict[str, Tensor] = {}
        for name, block in (("cells", net.up_blocks[2]), ("fours", net.up_blocks[1])):
            self._watch(name, block.attentions[0].transformer_blocks[0].attn2)

    def _watch(self, name: str, attention: Attention) -> None:
        scores = attention.get_attention_scores

        def kept(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
            self.seen[name] = scores(query, key, mask)
            return self.seen[name]

        attention.get_attention_scores = kept

    def loss(self, parts: Tensor, signal: Tensor) -> Tensor:
        """Mean surprise at the right parts, in nats, after a forward; pictures that cannot be seen yet count less.

        ``parts`` are `part_of_cells`, ``signal`` (B, 1, 1, 1) the share of the picture in what the network saw.
        """
        rows = len(parts)
        cells = self.seen["cells"].view(rows, self.heads, CELLS * CELLS, -1)[:, :2]
        wanted = parts.view(rows, 1, -1).expand(-1, 2, -1)
        fours = self.seen["fours"].view(rows, self.heads, CELLS * CELLS // 4, -1)
        quarters = parts.view(rows, CELLS // 2, 2, CELLS // 2, 2).permute(0, 2, 4, 1, 3).reshape(rows, self.heads, -1)
        weight = signal.view(-1, 1, 1).sqrt()
        return sum(_surprise(seen, at, weight) for seen, at in ((cells, wanted), (fours, quarters))) / 2


def _surprise(seen: Tensor, at: Tensor, weight: Tensor) -> Tensor:
    there = (at >= 0) * weight
    chance = seen.float().gather(-1, at.clamp(min=0)[..., None])[..., 0]
    return -(there * (chance + 1e-6).log()).sum() / there.sum().clamp(min=1)
