"""Recolouring: an object in another colour, its shading and its small parts kept.

Knows Oklab values and which of an object's pixels are its main colour; knows neither names nor layouts. An object has
one or two *main parts*: a range of hues, or a range of greys. Their pixels move to the colour that is asked for; all
others (eyes, wheels, windows, highlights) stay as they are.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import oklab

BINS = 24  # of hue
NEUTRAL = 0.075  # chroma over lightness under which a pixel is grey; much of the art that looks grey is a faint violet
GREYS = ("darkest", "dark", "light", "pale")  # ranges of greys
GREY_EDGES = (0.30, 0.55, 0.78)  # lightness between them
SALIENCE = (0.7, 0.9, 1.0, 1.0)  # of greys, the dark first, for a pixel of a hue counts HUE_SALIENCE
HUE_SALIENCE = 1.6
KINDS = ("", "hue", "grey", "both")  # what main parts an object has, where that is known in advance
ENOUGH = 0.5  # share of an object that its main parts should cover, before a second part is taken


@dataclass(frozen=True)
class MainParts:
    """The main parts of N objects; fields are (N, 2), the first and the second part."""

    lightness: Tensor  # in the middle
    a: Tensor
    b: Tensor
    hued: Tensor  # 1 where the part is a range of hues, 0 where it is a range of greys
    there: Tensor  # 1 where there is such a part

    def table(self) -> Tensor:
        """(N, 10): all fields side by side."""
        return torch.cat((self.lightness, self.a, self.b, self.hued, self.there), 1)


def find(lightness: Tensor, a: Tensor, b: Tensor, alpha: Tensor, kinds: Tensor | None = None) -> MainParts:
    """The main parts of objects, all arguments (N, pixels).

    ``kinds`` (N,) are as of `kind_of`, for objects of which it is known in advance what their main parts are.
    """
    kinds = torch.zeros(len(a), dtype=torch.long, device=a.device) if kinds is None else kinds
    chroma, angle = torch.hypot(a, b), torch.atan2(b, a)
    weight = alpha * (alpha > 0.5)
    total = weight.sum(1, keepdim=True).clamp(min=1e-6)
    # 1. How much of the object each range takes.
    hue = ((angle / (2 * math.pi) * BINS).floor().long() % BINS).clamp(0, BINS - 1)
    grey = sum(((lightness > edge).long() for edge in GREY_EDGES), torch.zeros_like(hue))
    bins = torch.where(chroma > NEUTRAL * lightness, hue, BINS + grey)
    shares = torch.zeros(len(a), BINS + len(GREYS), device=a.device).scatter_add_(1, bins, weight) / total
    hues = shares[:, :BINS]
    hues = sum((hues.roll(by, 1) * near for by, near in ((-2, 0.7), (-1, 1.0), (0, 1.0), (1, 1.0), (2, 0.7))), 0 * hues)
    salience = torch.tensor((HUE_SALIENCE, *SALIENCE), device=a.device)
    salience = torch.cat((salience[:1].expand(BINS), salience[1:]))
    ranges = torch.cat((hues, shares[:, BINS:]), 1)
    # 2. The two ranges that matter most; the second only where the first is not enough.
    of_hue = (torch.arange(BINS + len(GREYS), device=a.device) < BINS)[None]
    asked = torch.stack([kinds == KINDS.index(kind) for kind in ("hue", "grey", "both")])[..., None]
    barred = (asked[0] | asked[2]) & ~of_hue | asked[1] & of_hue
    ring = torch.arange(BINS, device=a.device)
    wanted = (kinds - len(KINDS))[:, None]
    named = wanted >= 0
    barred = barred | named & (torch.arange(BINS + len(GREYS), device=a.device) != wanted)
    first = (ranges * salience).masked_fill(barred, -1).argmax(1)
    apart = (ring - first[:, None]).abs()
    near = (torch.minimum(apart, BINS - apart) <= 4) & (first < BINS)[:, None]
    others = torch.cat((ranges[:, :BINS] * ~near, ranges[:, BINS:]), 1).scatter(1, first[:, None], 0)
    others[:, BINS] = 0  # the darkest greys are outlines, eyes and tyres, unless they are most of the object
    second = (others * salience).masked_fill(barred & ~asked[2] | asked[2] & of_hue, -1).argmax(1)
    taken = ranges.gather(1, first[:, None])[:, 0]
    more = others.gather(1, second[:, None])[:, 0]
    needed = (taken < ENOUGH) & (more > 0.6 * taken) & (more > 0.15)
    needed = needed & ~(asked[0] | asked[1] | named)[:, 0] | asked[2, :, 0]
    there = torch.stack((torch.ones_like(taken), needed.float()), 1)
    # 3. The mean colour of each.
    rows = []
    for chosen in (first, second):
        away = (bins - chosen[:, None]).abs()
        hued = (chosen < BINS)[:, None]
        inside = torch.where(hued, (torch.minimum(away, BINS - away) <= 2) & (bins < BINS), bins == chosen[:, None])
        own = weight * inside
        size = own.sum(1).clamp(min=1e-6)
        rows.append([(own * values).sum(1) / size for values in (lightness, a, b)])
    middle = [torch.stack(pair, 1) for pair in zip(*rows, strict=True)]
    return MainParts(*middle, (torch.stack((first, second), 1) < BINS).float(), there)


def kind_of(word: str, colours: dict[str, tuple[int, int, int]]) -> int:
    """The number of a kind of main parts: of `KINDS`, or, for a colour's name, of the range of that colour's hue."""
    if word in KINDS:
        return KINDS.index(word)
    _, a, b = oklab.of_rgb(torch.tensor([colours[word]]))[0].tolist()
    return len(KINDS) + int(math.atan2(b, a) / (2 * math.pi) * BINS // 1) % BINS


def weights(lightness: Tensor, a: Tensor, b: Tensor, parts: MainParts) -> tuple[Tensor, Tensor]:
    """How much each pixel, (N, pixels), is of its object's first and of its second main part."""
    chroma = torch.hypot(a, b)
    found = []
    for part in range(2):
        middle, pa, pb, hued, there = (field[:, part, None] for field in vars(parts).values())
        cosine = (a * pa + b * pb) / (chroma * torch.hypot(pa, pb)).clamp(min=1e-6)
        full = chroma / torch.hypot(pa, pb).clamp(min=1e-6)
        pale = _rise(lightness, middle + 0.28, middle + 0.42) * (1 - _rise(full, 0.4, 0.7))  # a penguin's breast
        dark = 1 - _rise(lightness, middle - 0.5, middle - 0.34)  # eyes
        of_hue = _rise(cosine, 0.60, 0.84) * _rise(chroma, 0.012, 0.035) * (1 - pale) * (1 - dark)
        of_grey = (1 - _rise(chroma, 0.085, 0.125)) * (1 - _rise((lightness - middle).abs(), 0.24, 0.38))
        found.append(there * torch.where(hued > 0, of_hue, of_grey))
    return found[0], found[1] * (1 - found[0])


def recolour(
    lightness: Tensor, a: Tensor, b: Tensor, weight: tuple[Tensor, Tensor], parts: Tensor, target: Tensor
) -> oklab.Channels:
    """Pixels in their object's new colour. ``parts`` (pixels, 10) are rows of `MainParts.table`, ``target`` (pixels, 3)
    lightness, a and b of the colour; the other arguments are (pixels,)."""
    base, base2, a1, a2, b1, b2, hued1, hued2, _, _ = parts.unbind(1)
    wanted, ta, tb = target.unbind(1)
    # Lightness: moved with the main part's middle; what is above and below keeps its distance as far as there is room.
    off = lightness - base - 0.6 * weight[1] * (base2 - base)  # the second part comes nearer to the first
    up, down = (1 - wanted) / (1 - base).clamp(min=1e-3), wanted / base.clamp(min=1e-3)
    moved = wanted + off * torch.where(off > 0, up, down).clamp(max=1)
    # Chroma: in proportion to what it was in its part; a grey part is tinted, its highlights and shadows less.
    room = torch.where(moved > wanted, 1 - 0.85 * (moved - wanted) / (1 - wanted), (moved / wanted).clamp(min=0) ** 0.5)
    new_a, new_b = a, b
    for share, pa, pb, hued in ((weight[0], a1, b1, hued1), (weight[1], a2, b2, hued2)):
        size = (pa * pa + pb * pb).clamp(min=1e-6)
        along, across = (a * pa + b * pb) / size, (b * pa - a * pb) / size  # as a complex number over the part's
        whole = torch.hypot(along, across).clamp(max=1.3)
        kept_along, kept_across = 0.3 * along + 0.7 * whole, 0.3 * across  # hues move together, and nearer
        real = torch.where(hued > 0, kept_along, room)
        imaginary = torch.where(hued > 0, kept_across, torch.zeros_like(room))
        new_a = new_a + share * (real * ta - imaginary * tb - a)
        new_b = new_b + share * (real * tb + imaginary * ta - b)
    both = weight[0] + weight[1]
    return lightness + both * (moved - lightness), new_a, new_b


def _rise(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """0 up to ``low``, 1 from ``high``, smooth between."""
    at = ((value - low) / (high - low)).clamp(0, 1)
    return at * at * (3 - 2 * at)
