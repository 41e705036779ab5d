"""Shades: the colour that a picture's object has, as a person would name it.

Knows pixels and the names of colours; knows neither words nor networks. The ground is estimated from the border. Every
pixel that stands out from it has a name: by its hue where it has one, else by its lightness. The commonest one wins.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import matching
from .questions import TINTS, Question
from .samples import oklab

STANDS_OUT = 0.10  # distance from the ground, in RGB of 0..1
NEUTRAL = 0.045  # chroma under which a pixel has no hue
DARK, LIGHT = 0.42, 0.80  # lightness of black and of white, where there is no hue
HUES = (  # degrees at which each begins, and its name
    (8, "red"), (42, "orange"), (82, "yellow"), (118, "green"), (168, "turquoise"), (225, "blue"), (288, "purple"),
    (335, "pink"),
)  # fmt: skip
BROWN = (0.62, 0.145)  # lightness and chroma under which red, orange and yellow are brown
PALE_RED = 0.70  # lightness above which red is pink


def answered(picture: Image.Image, question: Question) -> dict[str, float]:
    """Whether the object has the colour that was asked for; that of pairs that no training had counts once more."""
    right = float(named(picture) == TINTS[question.colour])
    return {"colour right": right, ("held out" if question.held_out else "trained"): right}


def named(picture: Image.Image) -> str:
    """The name, among `TINTS`, of the colour of what stands out from the ground."""
    pixels = matching.pixels_of(picture)
    out = (pixels - matching.ground_of(pixels)).norm(dim=0) > STANDS_OUT
    names = names_of(pixels[:, out].T)
    return TINTS[int(torch.bincount(names, minlength=len(TINTS)).argmax())]


def names_of(pixels: Tensor) -> Tensor:
    """(N, 3) sRGB of 0..1 to (N,) places in `TINTS`."""
    lightness, a, b = oklab.from_srgb(*pixels.unbind(-1))
    chroma, hue = torch.hypot(a, b), torch.rad2deg(torch.atan2(b, a)) % 360
    place = {name: n for n, name in enumerate(TINTS)}
    began = torch.tensor([start for start, _ in HUES])
    order = torch.tensor([place[name] for _, name in HUES])
    found = order[(torch.bucketize(hue, began, right=True) - 1) % len(HUES)]
    warm = (hue >= 20) & (hue < 105)
    found = torch.where(warm & (lightness < BROWN[0]) & (chroma < BROWN[1]), place["brown"], found)
    found = torch.where((found == place["red"]) & (lightness > PALE_RED), place["pink"], found)
    neutral = torch.where(lightness > LIGHT, place["white"], place["gray"])
    neutral = torch.where(lightness < DARK, place["black"], neutral)
    return torch.where(chroma < NEUTRAL, neutral, found)


def of_rgb(rgb: tuple[int, int, int]) -> str:
    """The name of one colour."""
    return TINTS[int(names_of(torch.from_numpy(np.array([rgb], np.float32)) / 255))]
