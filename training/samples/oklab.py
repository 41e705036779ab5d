"""Oklab: the colour space in which lightness, hue and chroma can be moved one by one.

Knows colour values as tensors; knows no pictures. Values are (3, ...): red, green and blue, or lightness, a and b.
"""

import functools

import torch
from torch import Tensor

CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)  # of linear red, green and blue
OPPONENTS = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)  # of the cones' cube roots


def encode(values: Tensor) -> Tensor:
    """Lightness, a and b of sRGB in 0..1."""
    linear = torch.where(values > 0.04045, ((values + 0.055) / 1.055).clamp(min=0) ** 2.4, values / 12.92)
    cones, opponents, _, _ = _tables(values.device)
    return _mixed(opponents, _mixed(cones, linear).clamp(min=0) ** (1 / 3))


def decode(values: Tensor) -> Tensor:
    """The sRGB in 0..1 of Oklab values; what lies outside is cut off."""
    _, _, to_roots, to_linear = _tables(values.device)
    roots = _mixed(to_roots, values)
    linear = _mixed(to_linear, roots * roots * roots).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055, 12.92 * linear)


def from_srgb(red: Tensor, green: Tensor, blue: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lightness, a and b of sRGB in 0..1, channel by channel."""
    lightness, a, b = encode(torch.stack((red, green, blue)))
    return lightness, a, b


def of_rgb(rows: Tensor) -> Tensor:
    """(N, 3) sRGB in 0..255 to (N, 3) lightness, a and b."""
    return encode(rows.float().T / 255).T


def _mixed(table: Tensor, values: Tensor) -> Tensor:
    mixed: Tensor = (table @ values.flatten(1)).view_as(values)
    return mixed


@functools.cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cones, opponents, and the ways back."""
    cones, opponents = (torch.tensor(rows, dtype=torch.float64) for rows in (CONES, OPPONENTS))
    tables = cones, opponents, opponents.inverse(), cones.inverse()
    return tuple(table.float().to(device) for table in tables)  # type: ignore[return-value]
