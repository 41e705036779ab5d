"""Attention targets: the part of the prompt that a cell shows is where the UNet's attention should look.

Knows the UNet's attentions, the parts' places in the prompt and where objects were laid; knows neither noise nor words.
Used while training only: nothing of it is in the model.
"""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from . import codes
from .scenes import CELLS


def row_shares() -> Tensor:
    """(CELLS + 1, CELLS, CELLS, GRID): by a box's side and first cell, how much of a cell each row of parts shows."""
    table = torch.zeros(CELLS + 1, CELLS, CELLS, codes.GRID)
    edges = torch.arange(codes.GRID + 1) / codes.GRID
    for side in range(1, CELLS + 1):
        for first in range(CELLS - side + 1):
            ends = torch.arange(side + 1)[:, None] / side
            shown = torch.minimum(ends[1:], edges[1:]) - torch.maximum(ends[:-1], edges[:-1])
            table[side, first, first : first + side] = side * shown.clamp(min=0)
    return table


def attention_targets(boxes: Tensor, table: Tensor) -> Tensor:
    """(B, CELLS, CELLS, 2 * PARTS): how much of a cell is of which part.

    ``boxes`` are (B, MAX_OBJECTS, 4), as of `scenes.boxes`; ``table`` is `row_shares`. The shares of a cell sum to 1
    where an object's box is, to 0 elsewhere. A box covers those before it.
    """
    count = len(boxes)
    which, left, top, side = boxes.clamp(min=0).unbind(-1)  # (B, MAX_OBJECTS)
    rows, columns = table[side, top], table[side, left]  # (B, MAX_OBJECTS, CELLS, GRID)
    inside = (rows.sum(-1)[..., None] * columns.sum(-1)[..., None, :] > 0.5) & (boxes[..., 3] > 0)[..., None, None]
    last = (inside * torch.arange(1, inside.shape[1] + 1)[:, None, None]).amax(1)  # (B, CELLS, CELLS), from 1
    at, box = torch.arange(count)[:, None, None], (last - 1).clamp(min=0)
    cell = torch.arange(CELLS)
    row, column = rows[at, box, cell[:, None]], columns[at, box, cell]  # (B, CELLS, CELLS, GRID)
    column = column * (last > 0)[..., None]
    part = (row[..., None] * column[..., None, :]).flatten(3)
    second = (which[at, box] == 1)[..., None]
    return torch.cat((part * ~second, part * second), -1)


class AttentionLoss:
    """Cross-entropy of three attentions of the UNet with their targets, which are known while training.

    In the last up block two heads of four learn to look at the parts that each cell shows, in both attentions. One
    level below, where a place is four cells, each head learns one of the four. Left to itself the network still looked
    everywhere at once after 20,000 samples.
    """

    def __init__(self, net: UNet2DConditionModel, heads: int) -> None:
        self.heads = heads
        self.probabilities: dict[str, Tensor] = {}  # of the last forward
        fours, cells = net.up_blocks[1].attentions, net.up_blocks[2].attentions
        for name, recorded in (("fours", fours[0]), ("cells", cells[0]), ("cells again", cells[1])):
            self._record(name, recorded.transformer_blocks[0].attn2)

    def _record(self, name: str, attention: Attention) -> None:
        scores = attention.get_attention_scores

        def recorded(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
            self.probabilities[name] = scores(query, key, mask)
            return self.probabilities[name]

        attention.get_attention_scores = recorded

    def __call__(self, targets: Tensor, signal: Tensor) -> Tensor:
        """Mean cross-entropy, in nats, of what the last forward attended to.

        ``targets`` are `attention_targets`. ``signal`` (B, 1, 1, 1) is the share of the picture in what the network
        saw: a sample of pure noise, in which nothing can be seen yet, counts half.
        """
        rows = len(targets)
        weight = 0.5 + 0.5 * signal.view(-1, 1, 1).sqrt()
        attended = {name: p.view(rows, self.heads, p.shape[1], -1) for name, p in self.probabilities.items()}
        split = targets.view(rows, CELLS // 2, 2, CELLS // 2, 2, -1).permute(0, 2, 4, 1, 3, 5)
        fours = _cross_entropy(attended["fours"], split.reshape(rows, self.heads, CELLS * CELLS // 4, -1), weight)
        wanted = targets.view(rows, 1, CELLS * CELLS, -1)
        cells = [_cross_entropy(attended[name][:, :2], wanted, weight) for name in ("cells", "cells again")]
        return (fours + sum(cells)) / 3


def _cross_entropy(attended: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of (B, H, N, LENGTH) attention against (B, 1 or H, N, 2 * PARTS) targets, where there are any."""
    probability = attended[..., codes.FIRST :].float()
    entropy = -(targets * (probability + 1e-6).log()).sum(-1)
    there = (targets.sum(-1) > 0.5) * weight
    return (there * entropy).sum() / (there.sum() * entropy.shape[1] / there.shape[1]).clamp(min=1)
