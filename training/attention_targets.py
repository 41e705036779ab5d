"""Attention targets: the part of the prompt that a latent shows is where the UNet's attention should look.

Knows the UNet's attentions, the parts' places in the prompt and where objects were laid; knows neither noise nor words.
Used while training only: nothing of it is in the model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import codes
from .nets.unet import UNet
from .windows import FINE, shares

MOST = 22 * FINE  # latents of a row or a column


def row_shares() -> Tensor:
    """(MOST + 1, MOST, MOST, GRID): by a box's side and first latent, how much of a latent each row of parts shows."""
    table = torch.zeros(MOST + 1, MOST, MOST, codes.GRID)
    for side in range(1, MOST + 1):
        shown = shares(codes.GRID, side)
        for first in range(MOST - side + 1):
            table[side, first, first : first + side] = shown
    return table


@dataclass(frozen=True)
class Targets:
    """Which parts each place shows, among 2 * PARTS, and how much of it is of each; a last axis of few of them."""

    parts: Tensor  # whole numbers
    shares: Tensor  # their sum is 1 where an object's box is, 0 elsewhere

    def by_head(self) -> "Targets":
        """(B, rows, columns, K) to (B, 4, rows / 2 * columns / 2, K): the four of every 2x2 apart."""
        return Targets(_by_head(self.parts), _by_head(self.shares))

    def for_all(self) -> "Targets":
        """(B, rows, columns, K) to (B, 1, rows * columns, K)."""
        return Targets(self.parts.flatten(1, 2)[:, None], self.shares.flatten(1, 2)[:, None])


def attention_targets(boxes: Tensor, table: Tensor, cells: tuple[int, int]) -> tuple[Targets, Targets]:
    """Of each latent, (B, FINE * rows, FINE * columns, 4), and of each of so many ``cells``, (B, rows, columns, 9).

    ``boxes`` are (B, MAX_OBJECTS, 4): which of the two objects, left, top and side, in cells; ``table`` is
    `row_shares`. A box covers those before it.
    """
    high, wide = (FINE * side for side in cells)
    which, left, top, side = (boxes.clamp(min=0) * boxes.new_tensor([1, FINE, FINE, FINE])).unbind(-1)
    rows, columns = table[side, top, :high], table[side, left, :wide]  # (B, MAX_OBJECTS, latents, GRID)
    inside = (rows.sum(-1)[..., None] * columns.sum(-1)[..., None, :] > 0.5) & (boxes[..., 3] > 0)[..., None, None]
    order = torch.arange(1, inside.shape[1] + 1, device=boxes.device)
    last = (inside * order[:, None, None]).amax(1)  # (B, high, wide), from 1
    latents = _shown(rows, columns, which, last, 2)
    rows, columns = (shares.view(*shares.shape[:2], -1, FINE, codes.GRID).mean(3) for shares in (rows, columns))
    return latents, _shown(rows, columns, which, last[:, ::FINE, ::FINE], 3)


def _shown(rows: Tensor, columns: Tensor, which: Tensor, last: Tensor, most: int) -> Targets:
    """The parts of the ``last`` box at each place: of at most so many rows and columns of parts."""
    at = torch.arange(len(rows), device=rows.device)[:, None, None]
    box = (last - 1).clamp(min=0)
    row, rows_at = rows[at, box, torch.arange(last.shape[1], device=rows.device)[:, None]].topk(most)
    column, columns_at = columns[at, box, torch.arange(last.shape[2], device=rows.device)].topk(most)
    parts = (rows_at[..., None] * codes.GRID + columns_at[..., None, :]).flatten(-2)
    shares = (row[..., None] * column[..., None, :]).flatten(-2)
    return Targets(parts + codes.PARTS * which[at, box][..., None], shares * (last > 0)[..., None])


class AttentionLoss:
    """Cross-entropy of three attentions of the UNet with their targets, which are known while training.

    Where a place of the attention is a cell, which is four latents, each head of the first attention learns to look at
    the part that one of them shows, and half of the heads of the last at what the whole cell shows. One level below,
    where a place is four cells, each head learns one of the four. Left to itself the network still looked everywhere at
    once after 20,000 samples.
    """

    def __init__(self, net: UNet) -> None:
        self.net, self.heads = net, net.shape.heads
        if self.heads != 4:
            raise ValueError(f"{self.heads} heads: each of four must have a cell of its own")

    def record(self, recorded: bool) -> None:
        """Keep what the attentions look at, or do so no longer."""
        for attention in self.net.looking():
            attention.recorded, attention.probabilities = recorded, None

    def __call__(self, latents: Targets, cells: Targets, signal: Tensor) -> Tensor:
        """Mean cross-entropy, in nats, of what the last forward attended to.

        The targets are `attention_targets`. ``signal`` (B, 1, 1, 1) is the share of the picture in what the network
        saw: a sample of pure noise, in which nothing can be seen yet, counts half.
        """
        weight = 0.5 + 0.5 * signal.view(-1, 1, 1).sqrt()
        looking = self.net.looking()
        below, first, last = (attention.probabilities for attention in looking)
        for attention in looking:  # what keeps a step's graph alive would spoil the capture of the next
            attention.probabilities = None
        half = None if last is None else last[:, : self.heads // 2]
        pairs = (below, cells.by_head()), (first, latents.by_head()), (half, cells.for_all())
        return torch.stack([_cross_entropy(attended, targets, weight) for attended, targets in pairs]).mean()


def _by_head(places: Tensor) -> Tensor:
    count, rows, columns, most = places.shape
    split = places.reshape(count, rows // 2, 2, columns // 2, 2, most).permute(0, 2, 4, 1, 3, 5)
    return split.reshape(count, 4, -1, most)


def _cross_entropy(attended: Tensor | None, targets: Targets, weight: Tensor) -> Tensor:
    """Weighted mean of (B, H, N, LENGTH) attention against (B, 1 or H, N, K) targets, where there are any."""
    if attended is None:
        raise ValueError("the attentions are not recorded")
    shares = targets.shares
    parts = targets.parts.expand(-1, attended.shape[1], -1, -1)
    probability = attended.gather(-1, codes.FIRST + parts).float()
    entropy = -(shares * (probability + 1e-6).log()).sum(-1)
    there = (shares.sum(-1) > 0.5) * weight
    return (there * entropy).sum() / (there.sum() * entropy.shape[1] / there.shape[1]).clamp(min=1)
