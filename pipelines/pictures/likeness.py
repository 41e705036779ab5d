"""How alike two pictures are: their differences in levels, PSNR and SSIM.

Knows tensors of pixels; knows neither models nor who drew them. Pictures are (B, 3, H, W), 0..1, and are compared as
they were drawn, before they are rounded to bytes.
"""

from __future__ import annotations

import math

import torch

_LEVELS = 255  # of a byte
_PERCENTILE = 0.99
_MIN_SQUARE = 1e-12  # of a difference: equal pictures have 120 dB, not infinity


def levels_apart(pictures: torch.Tensor, others: torch.Tensor) -> tuple[float, float, float]:
    """The absolute differences of pictures, each from the other of its row, in levels of 255: the largest and the mean
    of all, and the 99th percentile of the picture where that is largest."""
    largest, means, p99 = [], [], []
    for picture, other in zip(pictures, others, strict=True):  # one by one: large ones fill the memory in float64
        apart = (picture.double() - other.double()).abs().mul(_LEVELS).flatten()
        rank = math.ceil(_PERCENTILE * apart.numel())
        largest.append(float(apart.max()))
        means.append(float(apart.mean()))
        p99.append(float(apart.kthvalue(rank).values))  # torch.quantile takes no more than 16 million numbers
    return max(largest), math.fsum(means) / len(means), max(p99)


def psnr(pictures: torch.Tensor, others: torch.Tensor) -> list[float]:
    """The peak signal-to-noise ratio of each picture to the other of its row, in dB; 120 where they are equal."""
    squares = (pictures - others).pow(2).flatten(1).mean(1).clamp(min=_MIN_SQUARE)
    return [float(value) for value in 10 * torch.log10(1 / squares)]


def ssim(pictures: torch.Tensor, others: torch.Tensor, size: int = 11, width: float = 1.5) -> list[float]:
    """The structural similarity of each picture to the other of its row, 1 where they are equal.

    Wang et al. 2004: a Gaussian window of 11 pixels, K = 0.01 and 0.03; the mean over pixels and channels. No side may
    be shorter than the window.
    """
    line = torch.exp(-(torch.arange(size).float() - size // 2).pow(2) / (2 * width**2))
    window = (line / line.sum()).outer(line / line.sum()).expand(pictures.shape[1], 1, size, size)

    def blurred(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(values, window, groups=values.shape[1])

    a, b = blurred(pictures), blurred(others)
    spread_a, spread_b = blurred(pictures**2) - a**2, blurred(others**2) - b**2
    both = blurred(pictures * others) - a * b
    small, smaller = 0.01**2, 0.03**2
    alike = ((2 * a * b + small) * (2 * both + smaller)) / ((a**2 + b**2 + small) * (spread_a + spread_b + smaller))
    return [float(value) for value in alike.flatten(1).mean(1)]
