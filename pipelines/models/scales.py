"""Weights in fp8 times their scales.

Knows tensors alone; which scales there are, and of which shapes, pipelines/facts/marks.py knows.
"""

from __future__ import annotations

import torch

from pipelines.facts import marks


def multiplied(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A weight in float32, times its scale: as a whole, row by row or block by block."""
    shape = tuple(weight.shape)
    lengths = marks.blocks(tuple(scale.shape), shape)
    assert lengths is not None  # told from the header, before
    factor = scale.float().to(weight.device)
    if factor.numel() > 1:
        grid = [-(-side // length) for side, length in zip(shape, lengths, strict=True)]
        factor = factor.reshape(grid)
        for axis, (side, length) in enumerate(zip(shape, lengths, strict=True)):
            if grid[axis] > 1 and length > 1:
                factor = factor.repeat_interleave(length, axis).narrow(axis, 0, side)
    return weight.float() * factor.reshape(factor.shape if factor.numel() > 1 else ())
