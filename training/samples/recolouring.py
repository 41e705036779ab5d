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
NUMBERS, MOVES = 8, 5  # of a pixel, as of `prepare`; of an object, as of `moves`
ENOUGH = 0.5  # share of an object that its main parts should cover, before a second part is taken


@dataclass(frozen=True)
class MainParts:
    """The main parts of N objects; fields are (N, 2), the first and the second part."""

    lightness: Tensor  # in the middle
    a: Tensor
    b: Tensor
    hued: Tensor  # 1 where the part is a range of hues, 0 where it is a range of greys
    there: Tensor  # 1 where there is such a part

    def some(self, objects: Tensor) -> "MainParts":
        """Those of some objects."""
        return MainParts(**{name: field[objects] for name, field in vars(self).items()})


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
    lightness, a, b = (torch.stack(pair, 1) for pair in zip(*rows, strict=True))
    return MainParts(lightness, a, b, (torch.stack((first, second), 1) < BINS).float(), there)


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


def prepare(lab: Tensor, parts: MainParts) -> Tensor:
    """(3, N, pixels) to (NUMBERS, N, pixels): of each pixel all that does not depend on the new colour.

    They are: what stays of lightness, a and b; the main parts' share; how far the pixel is above the first part's
    middle; and what the new chroma is multiplied with: as a complex number in parts of a hue, and the share of grey
    parts.
    """
    lightness, a, b = lab
    shares = weights(lightness, a, b, parts)
    off = lightness - parts.lightness[:, :1]
    off = off - 0.6 * shares[1] * (parts.lightness[:, 1:] - parts.lightness[:, :1])  # the second comes nearer
    real, imaginary, grey = torch.zeros_like(a), torch.zeros_like(a), torch.zeros_like(a)
    for part, share in enumerate(shares):
        pa, pb, hued = (field[:, part, None] for field in (parts.a, parts.b, parts.hued))
        size = (pa * pa + pb * pb).clamp(min=1e-6)
        along, across = (a * pa + b * pb) / size, (b * pa - a * pb) / size  # as a complex number over the part's
        whole = torch.hypot(along, across).clamp(max=1.3)
        real = real + share * hued * (0.3 * along + 0.7 * whole)  # hues move together, and nearer to each other
        imaginary = imaginary + share * hued * 0.3 * across
        grey = grey + share * (1 - hued)
    both = shares[0] + shares[1]
    return torch.stack((lightness * (1 - both), a * (1 - both), b * (1 - both), both, off, real, imaginary, grey))


def moves(middle: Tensor, target: Tensor) -> Tensor:
    """(M,) lightness of objects' first main parts and (M, 3) new colours, to (MOVES, M): what `apply` needs of both.

    Lightness above and below the middle keeps its distance as far as there is room.
    """
    wanted, a, b = target.unbind(1)
    up, down = (1 - wanted) / (1 - middle).clamp(min=1e-3), wanted / middle.clamp(min=1e-3)
    return torch.stack((wanted, up.clamp(max=1), down.clamp(max=1), a, b))


def apply(prepared: Tensor, moved: Tensor) -> Tensor:
    """(NUMBERS, P) as of `prepare` and (MOVES, P) as of `moves` to (3, P) lightness, a and b in the new colour."""
    kept_lightness, kept_a, kept_b, share, off, real, imaginary, grey = prepared
    wanted, up, down, a, b = moved
    lightness = wanted + torch.maximum(off, off.new_zeros(())) * up + torch.minimum(off, off.new_zeros(())) * down
    # A grey part is tinted, its highlights and shadows less.
    light, dark = 1 - 0.85 * (lightness - wanted) / (1 - wanted), (lightness / wanted).clamp(min=0)
    along = real + grey * torch.minimum(light, dark.sqrt())
    return torch.stack(
        (
            kept_lightness + share * lightness,
            kept_a + along * a - imaginary * b,
            kept_b + along * b + imaginary * a,
        )
    )


def _rise(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """0 up to ``low``, 1 from ``high``, smooth between."""
    at = ((value - low) / (high - low)).clamp(0, 1)
    return at * at * (3 - 2 * at)
