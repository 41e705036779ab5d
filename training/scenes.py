"""Scenes: where the objects of a layout lie, in pictures of three shapes.

Knows layouts and cells of the latents; knows neither pixels nor words.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .concepts import Concept

SIZE = 128  # native pixels
LAYOUTS = ("single", "beside", "above", "with", "two", "three", "four", "empty")
PAIRS = ("beside", "above", "with")
LAYOUT_SHARES = (0.34, 0.19, 0.20, 0.10, 0.05, 0.05, 0.05, 0.02)  # once training is past singles
GROUND_SHARES = (0.42, 0.28, 0.30)  # pastel, colours, scenes
CELLS = 16  # the latents' rows and columns
MAX_OBJECTS = 4  # of a scene
SHAPES = ((16, 16), (12, 22), (22, 12))  # rows and columns of latents: square, wide and tall
MARGIN = 1  # cells between an object and the picture's edge
Box = tuple[int, int, int, int]  # which of the two objects, left, top and side, in cells


@dataclass(frozen=True)
class Arrangement:
    """Boxes of a layout's objects, those behind first, and the choices that led to them."""

    boxes: tuple[Box, ...]
    choices: tuple[int, int, int]  # shifted across, shifted down, the first form; -1 where there is no choice


@functools.cache
def arrangements(layout: str, cells: tuple[int, int] = (CELLS, CELLS)) -> tuple[Arrangement, ...]:
    """All arrangements of a layout in so many rows and columns of latents, each as often as it is wanted.

    A form is what the objects make together: the large and the small size of a lone one, the left one higher or lower.
    Every form is laid to the left or to the right of the middle, and above or below it, as far as there is room.
    """
    rows, columns = cells
    found = []
    for form, boxes in enumerate(_forms(layout, rows, columns)):
        wide, high = (max(box[at] + box[3] for box in boxes) for at in (1, 2))
        lefts, tops = _starts(columns, wide), _starts(rows, high)
        often = 2 if layout == "single" and form == 0 else 1
        for across, left in enumerate(lefts):
            for down, top in enumerate(tops):
                placed = tuple((which, x + left, y + top, side) for which, x, y, side in boxes)
                chosen = (across if len(lefts) > 1 else -1, down if len(tops) > 1 else -1, 1 - form)
                found += [Arrangement(placed, chosen)] * often
    return tuple(found) or (Arrangement((), (-1, -1, -1)),)


def _starts(length: int, extent: int) -> tuple[int, ...]:
    """Where something of this extent may start: a little before the middle and behind it."""
    slack, middle = 2 if length > CELLS else 1, (length - extent) / 2
    low = max(MARGIN, math.floor(middle - slack))
    high = min(length - MARGIN - extent, math.ceil(middle + slack))
    return (low,) if high <= low else (low, high)


def _forms(layout: str, rows: int, columns: int) -> tuple[tuple[Box, ...], ...]:
    """Two forms of a layout, from its own left and top corner; none of an empty one."""
    if rows > columns:  # a tall one is a wide one, turned
        turned = {"beside": "above", "above": "beside", "two": "two above"}.get(layout, layout)
        return tuple(tuple((w, y, x, s) for w, x, y, s in form) for form in _forms(turned, columns, rows))
    return (_SQUARE if rows == columns else _WIDE)[layout]


_SQUARE: dict[str, tuple[tuple[Box, ...], ...]] = {
    "single": (((0, 0, 0, 12),), ((0, 0, 0, 10),)),
    "beside": (((0, 0, 0, 8), (1, 6, 4, 8)), ((0, 0, 4, 8), (1, 6, 0, 8))),
    "above": (((1, 4, 6, 8), (0, 0, 0, 8)), ((1, 0, 6, 8), (0, 4, 0, 8))),
    "with": (((0, 0, 0, 10), (1, 6, 6, 8)), ((0, 4, 0, 10), (1, 0, 6, 8))),
    "two": (((0, 0, 0, 8), (0, 6, 4, 8)), ((0, 0, 4, 8), (0, 6, 0, 8))),
    "three": (((0, 3, 0, 7), (0, 0, 7, 7), (0, 7, 7, 7)), ((0, 0, 0, 7), (0, 7, 0, 7), (0, 4, 7, 7))),
    "four": (
        ((0, 0, 0, 7), (0, 7, 0, 7), (0, 0, 7, 7), (0, 7, 7, 7)),
        ((0, 0, 0, 6), (0, 7, 0, 6), (0, 0, 7, 6), (0, 7, 7, 6)),
    ),
    "empty": (),
}
_WIDE: dict[str, tuple[tuple[Box, ...], ...]] = {
    "single": (((0, 0, 0, 10),), ((0, 0, 0, 8),)),
    "beside": (((0, 0, 0, 10), (1, 10, 0, 10)), ((0, 0, 0, 8), (1, 9, 0, 8))),
    "above": (((1, 5, 4, 6), (0, 0, 0, 6)), ((1, 0, 4, 6), (0, 5, 0, 6))),
    "with": (((0, 0, 0, 10), (1, 9, 2, 8)), ((0, 0, 0, 10), (1, 9, 0, 8))),
    "two": (((0, 0, 0, 10), (0, 10, 0, 10)), ((0, 0, 0, 8), (0, 9, 0, 8))),
    "two above": (((0, 0, 0, 10), (0, 10, 0, 10)), ((0, 0, 0, 8), (0, 9, 0, 8))),
    "three": (((0, 0, 0, 8), (0, 12, 0, 8), (0, 6, 2, 8)), ((0, 0, 2, 8), (0, 12, 2, 8), (0, 6, 0, 8))),
    "four": (
        ((0, 0, 0, 6), (0, 5, 4, 6), (0, 9, 0, 6), (0, 14, 4, 6)),
        ((0, 0, 4, 6), (0, 5, 0, 6), (0, 9, 4, 6), (0, 14, 0, 6)),
    ),
    "empty": (),
}
SIDES = tuple(sorted({box[3] for table in (_SQUARE, _WIDE) for forms in table.values() for f in forms for box in f}))


def choices(layouts: Tensor, boxes: Tensor, cells: tuple[int, int] = (CELLS, CELLS)) -> Tensor:
    """(B, 3): whether objects are shifted across, shifted down, and in the first form; -1 where there is no choice.

    ``layouts`` are (B,), ``boxes`` (B, MAX_OBJECTS, 4) in pictures of so many rows and columns of latents.
    """
    placed, chosen = _choice_tables(cells)
    placed, chosen = placed.to(boxes.device), chosen.to(boxes.device)
    same = (placed[layouts] == boxes.flatten(1)[:, None].long()).all(-1)  # (B, arrangements)
    at = same.long().argmax(1)
    found: Tensor = chosen[layouts, at].where(same.any(1)[:, None], -1)
    return found


@functools.cache
def _choice_tables(cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(layouts, arrangements, MAX_OBJECTS * 4) boxes and (layouts, arrangements, 3) choices."""
    every = [arrangements(layout, cells) for layout in LAYOUTS]
    count = max(map(len, every))
    placed = torch.full((len(LAYOUTS), count, MAX_OBJECTS * 4), -2)
    chosen = torch.full((len(LAYOUTS), count, 3), -1)
    for own, (boxes, told) in zip(every, zip(placed, chosen, strict=True), strict=True):
        for row, tell, arrangement in zip(boxes, told, own, strict=False):
            row[:] = box_rows(arrangement.boxes).flatten()
            tell[:] = torch.tensor(arrangement.choices)
    return placed, chosen


def box_rows(boxes: tuple[Box, ...]) -> Tensor:
    """(MAX_OBJECTS, 4): an arrangement's boxes; rows of -1 stand for objects that are not there."""
    rows = torch.full((MAX_OBJECTS, 4), -1)
    for row, box in zip(rows, boxes, strict=False):
        row[:] = torch.tensor(box)
    return rows


def load_sprite(art: Path, concept: Concept) -> Image.Image:
    """The object's picture, cut to its outline, with premultiplied alpha."""
    path = art / "node_modules/@lobehub/fluent-emoji-3d/assets" / f"{concept.key}.webp"
    with Image.open(path) as opened:
        sprite = opened.convert("RGBA")
    box = sprite.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    return sprite.crop(box).convert("RGBa")
