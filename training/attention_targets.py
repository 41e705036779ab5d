"""Attention targets: the part of the prompt that a cell shows is where the UNet's attention should look.

Knows the UNet's attentions, the parts' places in the prompt and where objects were laid; knows neither noise nor words.
Used while training only: nothing of it is in the model.
"""

import torch
from torch import Tensor

from . import codes
from .nets.unet import UNet
from .windows import shares

MOST_CELLS = 22  # of a row or a column of latents


def row_shares() -> Tensor:
    """(MOST + 1, MOST, MOST, GRID): by a box's side and first cell, how much of a cell each row of parts shows."""
    table = torch.zeros(MOST_CELLS + 1, MOST_CELLS, MOST_CELLS, codes.GRID)
    for side in range(1, MOST_CELLS + 1):
        shown = shares(codes.GRID, side)
        for first in range(MOST_CELLS - side + 1):
            table[side, first, first : first + side] = shown
    return table


def attention_targets(boxes: Tensor, table: Tensor, cells: tuple[int, int]) -> Tensor:
    """(B, rows, columns, 2 * PARTS): how much of a cell is of which part.

    ``boxes`` are (B, MAX_OBJECTS, 4): which of the two objects, left, top and side, in cells; ``table`` is
    `row_shares`. The shares of a cell sum to 1 where an object's box is, to 0 elsewhere. A box covers those before it.
    """
    which, left, top, side = boxes.clamp(min=0).unbind(-1)  # (B, MAX_OBJECTS)
    rows, columns = table[side, top, : cells[0]], table[side, left, : cells[1]]  # (B, MAX_OBJECTS, cells, GRID)
    inside = (rows.sum(-1)[..., None] * columns.sum(-1)[..., None, :] > 0.5) & (boxes[..., 3] > 0)[..., None, None]
    order = torch.arange(1, inside.shape[1] + 1, device=boxes.device)
    last = (inside * order[:, None, None]).amax(1)  # (B, rows, columns), from 1
    at = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    box = (last - 1).clamp(min=0)
    row = rows[at, box, torch.arange(cells[0], device=boxes.device)[:, None]]  # (B, rows, columns, GRID)
    column = columns[at, box, torch.arange(cells[1], device=boxes.device)] * (last > 0)[..., None]
    part = (row[..., None] * column[..., None, :]).flatten(3)
    second = (which[at, box] == 1)[..., None]
    return torch.cat((part * ~second, part * second), -1)


class AttentionLoss:
    """Cross-entropy of three attentions of the UNet with their targets, which are known while training.

    In the last up block half of the heads learn to look at the parts that each cell shows, in both attentions. One
    level below, where a place is four cells, each head learns one of the four. Left to itself the network still looked
    everywhere at once after 20,000 samples.
    """

    def __init__(self, net: UNet) -> None:
        self.net, self.heads = net, net.shape.heads
        if self.heads != 4:
            raise ValueError(f"{self.heads} heads: each of four must have a cell of its own")

    def record(self, recorded: bool) -> None:
        """Keep what the attentions look at, or do so no longer."""
        for attention in self.net.looking():
            attention.recorded, attention.probabilities = recorded, None

    def __call__(self, targets: Tensor, signal: Tensor) -> Tensor:
        """Mean cross-entropy, in nats, of what the last forward attended to.

        ``targets`` are `attention_targets`. ``signal`` (B, 1, 1, 1) is the share of the picture in what the network
        saw: a sample of pure noise, in which nothing can be seen yet, counts half.
        """
        count, rows, columns, _ = targets.shape
        weight = 0.5 + 0.5 * signal.view(-1, 1, 1).sqrt()
        looking = self.net.looking()
        fours, *cells = (attention.probabilities for attention in looking)
        for attention in looking:  # what keeps a step's graph alive would spoil the capture of the next
            attention.probabilities = None
        split = targets.view(count, rows // 2, 2, columns // 2, 2, -1).permute(0, 2, 4, 1, 3, 5)
        entropy = _cross_entropy(fours, split.reshape(count, self.heads, rows * columns // 4, -1), weight)
        wanted = targets.view(count, 1, rows * columns, -1)
        for attended in cells:
            half = None if attended is None else attended[:, : self.heads // 2]
            entropy = entropy + _cross_entropy(half, wanted, weight)
        return entropy / 3


def _cross_entropy(attended: Tensor | None, targets: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of (B, H, N, LENGTH) attention against (B, 1 or H, N, 2 * PARTS) targets, where there are any."""
    if attended is None:
        raise ValueError("the attentions are not recorded")
    probability = attended[..., codes.FIRST :].float()
    entropy = -(targets * (probability + 1e-6).log()).sum(-1)
    there = (targets.sum(-1) > 0.5) * weight
    return (there * entropy).sum() / (there.sum() * entropy.shape[1] / there.shape[1]).clamp(min=1)
