"""The two super-resolution networks of Real-ESRGAN, with the names of its files (BSD 3-Clause).

Knows layers; knows neither files nor devices. Pictures are (B, 3, H, W), 0..1, float32; the layers compute in the
dtype of their weights, and what is added to a picture or is one itself is float32: bfloat16 has seven bits after the
first, and would show steps in a sky.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pipelines.facts.upscaler import Network, UpscalerShape

_SLOPE = 0.2  # of LeakyReLU
_RESIDUAL = 0.2  # of what a block adds


class SRVGGNetCompact(nn.Module):
    """A stack of convolutions at the small size, which say what is added to the nearest pixels. Of ``realesr-*``."""

    def __init__(self, shape: UpscalerShape) -> None:
        super().__init__()
        self.scale = shape.scale
        layers: list[nn.Module] = []
        for number in range(shape.depth + 1):
            layers += [nn.Conv2d(shape.width if number else 3, shape.width, 3, padding=1), nn.PReLU(shape.width)]
        last = nn.Conv2d(shape.width, 3 * shape.scale**2, 3, padding=1)
        self.body = nn.ModuleList([*layers, last])

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) → (B, 3, scale·h, scale·w)."""
        x = pixels.to(next(self.parameters()).dtype)
        for layer in self.body:
            x = layer(x)
        added = F.pixel_shuffle(x.float(), self.scale)
        return added.add_(F.interpolate(pixels, scale_factor=self.scale, mode="nearest"))


class _DenseBlock(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        known = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            known = torch.cat((known, _leaky(conv(known))), dim=1)
        return torch.add(x, self.conv5(known), alpha=_RESIDUAL)


class _Block(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = _DenseBlock(width, growth)
        self.rdb2 = _DenseBlock(width, growth)
        self.rdb3 = _DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=_RESIDUAL)


class RRDBNet(nn.Module):
    """Residual in residual dense blocks, then two doublings (ESRGAN, arXiv:1809.00219). Where it enlarges by less than
    4, it works on squares of pixels as channels, and takes pictures whose sides they divide."""

    def __init__(self, shape: UpscalerShape) -> None:
        super().__init__()
        self.unshuffle = shape.unshuffle
        width = shape.width
        self.conv_first = nn.Conv2d(3 * shape.unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(_Block(width, shape.growth) for _ in range(shape.depth)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) → (B, 3, scale·h, scale·w)."""
        x = pixels.to(self.conv_first.weight.dtype)
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)
        first = self.conv_first(x)
        x = self.conv_body(self.body(first)).add_(first)
        for conv in (self.conv_up1, self.conv_up2):
            x = _leaky(conv(F.interpolate(x, scale_factor=2, mode="nearest")))
        x = _leaky(self.conv_hr(x))
        last = self.conv_last
        assert last.bias is not None
        return F.conv2d(x.float(), last.weight.float(), last.bias.float(), padding=1)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE, inplace=True)


def build(shape: UpscalerShape) -> nn.Module:
    """The network of this shape, with weights that mean nothing yet."""
    return RRDBNet(shape) if shape.network is Network.RRDB else SRVGGNetCompact(shape)
