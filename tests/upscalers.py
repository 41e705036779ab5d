"""Super-resolution files with random weights, and what the two networks make of a picture by their definition."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Weights = Mapping[str, Tensor]


def compact(scale: int = 2, width: int = 8, depth: int = 3, *, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of an SRVGGNetCompact."""
    made: dict[str, Tensor] = {}
    random = torch.Generator().manual_seed(seed)
    for number in range(depth + 1):
        _conv(made, f"body.{2 * number}", 3 if number == 0 else width, width, random)
        made[f"body.{2 * number + 1}.weight"] = torch.rand(width, generator=random) * 0.5
    _conv(made, f"body.{2 * depth + 2}", width, 3 * scale * scale, random)
    return made


def rrdb(scale: int = 4, width: int = 8, blocks: int = 2, growth: int = 4, *, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of an RRDBNet."""
    made: dict[str, Tensor] = {}
    random = torch.Generator().manual_seed(seed)
    _conv(made, "conv_first", 3 * (4 // scale) ** 2, width, random)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for number in range(1, 6):
                out = width if number == 5 else growth
                _conv(made, f"body.{block}.rdb{dense}.conv{number}", width + (number - 1) * growth, out, random)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        _conv(made, name, width, width, random)
    _conv(made, "conv_last", width, 3, random)
    made["conv_last.weight"] *= 0.3
    made["conv_last.bias"] += 0.5
    return made


def _conv(made: dict[str, Tensor], name: str, inputs: int, outputs: int, random: torch.Generator) -> None:
    spread = (2 / (9 * inputs)) ** 0.5
    made[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=random) * spread
    made[f"{name}.bias"] = torch.randn(outputs, generator=random) * 0.05


def write(path: Path, weights: Weights) -> Path:
    """A safetensors file."""
    safetensors.torch.save_file(dict(weights), path)
    return path


def by_definition(weights: Weights, pixels: Tensor, scale: int) -> Tensor:
    """(B, 3, h, w), 0..1 → (B, 3, scale·h, scale·w): the papers' and Real-ESRGAN's text, operation by operation."""
    return _rrdb(weights, pixels, scale) if "conv_first.weight" in weights else _compact(weights, pixels, scale)


def _c(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=1, padding=1)


def _compact(weights: Weights, pixels: Tensor, scale: int) -> Tensor:
    last = max(int(name.split(".")[1]) for name in weights)
    x = pixels
    for number in range(0, last, 2):
        x = _c(weights, f"body.{number}", x)
        slope = weights[f"body.{number + 1}.weight"][None, :, None, None]
        x = torch.where(x > 0, x, slope * x)
    x = _c(weights, f"body.{last}", x)
    batch, _, height, width = x.shape
    # Channel c·s² + i·s + j is the pixel (i, j) of colour c in a square of s × s.
    squares = x.reshape(batch, 3, scale, scale, height, width).permute(0, 1, 4, 2, 5, 3)
    nearest = pixels.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    return squares.reshape(batch, 3, height * scale, width * scale) + nearest


def _rrdb(weights: Weights, pixels: Tensor, scale: int) -> Tensor:
    x = pixels
    if (side := 4 // scale) > 1:
        batch, _, height, width = x.shape
        x = x.reshape(batch, 3, height // side, side, width // side, side).permute(0, 1, 3, 5, 2, 4)
        x = x.reshape(batch, 3 * side * side, height // side, width // side)
    first = trunk = _c(weights, "conv_first", x)
    for block in range(1 + max(int(name.split(".")[1]) for name in weights if name.startswith("body."))):
        into = trunk
        for dense in (1, 2, 3):
            known = [trunk]
            for number in (1, 2, 3, 4):
                known.append(_leaky(_c(weights, f"body.{block}.rdb{dense}.conv{number}", torch.cat(known, 1))))
            trunk = trunk + 0.2 * _c(weights, f"body.{block}.rdb{dense}.conv5", torch.cat(known, 1))
        trunk = into + 0.2 * trunk
    x = first + _c(weights, "conv_body", trunk)
    for name in ("conv_up1", "conv_up2"):
        x = _leaky(_c(weights, name, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)))
    return _c(weights, "conv_last", _leaky(_c(weights, "conv_hr", x)))


def _leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)
