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


def shares() -> Tensor:
    """(CELLS + 1, CELLS, CELLS, GRID): by a box's side and first cell, how much of a cell each row of parts shows."""
    table = torch.zeros(CELLS + 1, CELLS, CELLS, codes.GRID)
    edges = torch.arange(codes.GRID + 1) / codes.GRID
    for side in range(1, CELLS + 1):
        for first in range(CELLS - side + 1):
            ends = torch.arange(side + 1)[:, None] / side
            shown = torch.minimum(ends[1:], edges[1:]) - torch.maximum(ends[:-1], edges[:-1])
            table[side, first, first : first + side] = side * shown.clamp(min=0)
    return table


def parts_of_cells(boxes: Tensor, table: Tensor) -> Tensor:
    """(B, MOST, 4) boxes as of `scenes.boxes` to (B, CELLS, CELLS, 2 * PARTS): how much of a cell is of which part.

    Sums to 1 where an object's box is, to 0 elsewhere; a box covers those before it.
    """
    count = len(boxes)
    which, left, top, side = boxes.clamp(min=0).unbind(-1)  # (B, MOST)
    rows, columns = table[side, top], table[side, left]  # (B, MOST, CELLS, GRID)
    inside = (rows.sum(-1)[..., None] * columns.sum(-1)[..., None, :] > 0.5) & (boxes[..., 3] > 0)[..., None, None]
    last = (inside * torch.arange(1, inside.shape[1] + 1)[:, None, None]).amax(1)  # (B, CELLS, CELLS), from 1
    at, box = torch.arange(count)[:, None, None], (last - 1).clamp(min=0)
    cell = torch.arange(CELLS)
    row, column = rows[at, box, cell[:, None]], columns[at, box, cell]  # (B, CELLS, CELLS, GRID)
    column = column * (last > 0)[..., None]
    part = (row[..., None] * column[..., None, :]).flatten(3)
    second = (which[at, box] == 1)[..., None]
    return torch.cat((part * ~second, part * second), -1)


class Gaze:
    """Shows three attentions where to look: what every part of the prompt is of is known while training.

    In the last up block two heads of four learn to look at the parts that each cell shows, twice over; a level below,
    where a place is four cells, each head learns one of them. Left to itself the network still looked everywhere at
    once after 20,000 samples.
    """

    def __init__(self, net: UNet2DConditionModel, heads: int) -> None:
        self.heads = heads
        self.seen: dict[str, Tensor] = {}
        fours, cells = net.up_blocks[1].attentions, net.up_blocks[2].attentions
        for name, watched in (("fours", fours[0]), ("cells", cells[0]), ("cells again", cells[1])):
            self._watch(name, watched.transformer_blocks[0].attn2)

    def _watch(self, name: str, attention: Attention) -> None:
        scores = attention.get_attention_scores

        def kept(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
            self.seen[name] = scores(query, key, mask)
            return self.seen[name]

        attention.get_attention_scores = kept

    def loss(self, parts: Tensor, signal: Tensor) -> Tensor:
        """How surprised the attentions would be by the parts that are there, in nats, after a forward.

        ``parts`` are `parts_of_cells`, ``signal`` (B, 1, 1, 1) the share of the picture in what the network saw:
        where nothing can be seen yet counts half.
        """
        rows = len(parts)
        weight = 0.5 + 0.5 * signal.view(-1, 1, 1).sqrt()
        seen = {name: seen.view(rows, self.heads, seen.shape[1], -1) for name, seen in self.seen.items()}
        split = parts.view(rows, CELLS // 2, 2, CELLS // 2, 2, -1).permute(0, 2, 4, 1, 3, 5)
        fours = _surprise(seen["fours"], split.reshape(rows, self.heads, CELLS * CELLS // 4, -1), weight)
        wanted = parts.view(rows, 1, CELLS * CELLS, -1)
        cells = [_surprise(seen[name][:, :2], wanted, weight) for name in ("cells", "cells again")]
        return (fours + sum(cells)) / 3


def _surprise(seen: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Mean surprise of (B, H, N, LENGTH) attention at (B, 1 or H, N, 2 * PARTS) shares, where they are any."""
    chance = seen[..., codes.FIRST :].float()
    surprise = -(wanted * (chance + 1e-6).log()).sum(-1)
    there = (wanted.sum(-1) > 0.5) * weight
    return (there * surprise).sum() / (there.sum() * surprise.shape[1] / there.shape[1]).clamp(min=1)
