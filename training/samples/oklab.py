"""Oklab: the colour space in which lightness, hue and chroma can be moved one by one.

Knows colour values as tensors; knows no pictures. Channels are separate tensors of any one shape.
"""

import torch
from torch import Tensor

Channels = tuple[Tensor, Tensor, Tensor]


def from_srgb(red: Tensor, green: Tensor, blue: Tensor) -> Channels:
    """Lightness, a and b of sRGB in 0..1."""
    r, g, b = (_linear(channel) for channel in (red, green, blue))
    long = _root(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    middle = _root(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    short = _root(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def to_srgb(lightness: Tensor, a: Tensor, b: Tensor) -> Channels:
    """The sRGB in 0..1 of Oklab values; what lies outside is cut off."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _encoded(4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short),
        _encoded(-1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short),
        _encoded(-0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short),
    )


def of_rgb(rows: Tensor) -> Tensor:
    """(N, 3) sRGB in 0..255 to (N, 3) lightness, a and b."""
    return torch.stack(from_srgb(*(rows.float() / 255).unbind(-1)), -1)


def _linear(channel: Tensor) -> Tensor:
    return torch.where(channel > 0.04045, ((channel + 0.055) / 1.055).clamp(min=0) ** 2.4, channel / 12.92)


def _encoded(channel: Tensor) -> Tensor:
    cut = channel.clamp(0, 1)
    return torch.where(cut > 0.0031308, 1.055 * cut.clamp(min=1e-8) ** (1 / 2.4) - 0.055, 12.92 * cut)


def _root(channel: Tensor) -> Tensor:
    return channel.clamp(min=0) ** (1 / 3)
