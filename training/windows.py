"""Cells: windows of them, since pixels cost more than latents do, and what is made larger or smaller.

Knows cells and pixels; knows no networks.
"""

import random

import torch
from torch import Tensor

CELL = 8  # pixels
FINE = 2  # latents of a side of a cell
WINDOW = 10  # cells of a side of what is decoded to pixels
EDGE = 1  # cells at the window's edges that do not count, since they do not see what lies beyond
Cells = tuple[int, int]  # rows and columns of latents


def shares(length: int, wanted: int) -> Tensor:
    """(wanted, length): how much of each of so many equal parts of a row is covered by each of its ``length`` cells."""
    edges = torch.arange(wanted + 1, dtype=torch.float64) * length / wanted
    cells = torch.arange(length, dtype=torch.float64)
    shown = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
    return (shown.clamp(min=0) * wanted / length).float()


def corner_in(cells: Cells, chance: random.Random) -> Cells:
    """Where a window begins; what is smaller than one is seen whole."""
    return chance.randint(0, max(0, cells[0] - WINDOW)), chance.randint(0, max(0, cells[1] - WINDOW))


def cut(pixels: Tensor, corner: Cells) -> Tensor:
    """(B, 3, H, W): the pixels of a window, whose ``corner`` is in cells."""
    (top, left), side = corner, CELL * WINDOW
    return pixels[..., CELL * top : CELL * top + side, CELL * left : CELL * left + side]


def counted(corner: Cells, cells: Cells) -> Tensor:
    """(1, 1, H, W): 1 where a window's pixels count, 0 near those of its edges that are not the picture's."""
    sides = []
    for at, length in zip(corner, cells, strict=True):
        side = torch.ones(CELL * min(WINDOW, length))
        if at > 0:
            side[: EDGE * CELL] = 0
        if at + WINDOW < length:
            side[-EDGE * CELL :] = 0
        sides.append(side)
    return torch.outer(*sides)[None, None]
