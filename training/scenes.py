"""Scenes: where the objects of a layout lie, in pictures of three shapes.

Knows layouts and cells of the latents; knows neither pixels nor words.
"""

import functools
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
Box = tuple[int, int, int, int]  # which of the two objects, left, top and side, in cells


@functools.cache
def arrangement(layout: str, cells: tuple[int, int] = (CELLS, CELLS)) -> tuple[Box, ...]:
    """Where a layout's objects lie in so many rows and columns of latents, those behind first: in the middle."""
    rows, columns = cells
    boxes = _boxes(layout, rows, columns)
    wide, high = (max((box[at] + box[3] for box in boxes), default=0) for at in (1, 2))
    left, top = (columns - wide) // 2, (rows - high) // 2
    return tuple((which, x + left, y + top, side) for which, x, y, side in boxes)


def _boxes(layout: str, rows: int, columns: int) -> tuple[Box, ...]:
    """A layout's boxes, from its own left and top corner; none of an empty one."""
    if rows > columns:  # a tall one is a wide one, turned
        turned = {"beside": "above", "above": "beside", "two": "two above"}.get(layout, layout)
        return tuple((which, y, x, side) for which, x, y, side in _boxes(turned, columns, rows))
    return (_SQUARE if rows == columns else _WIDE)[layout]


_SQUARE: dict[str, tuple[Box, ...]] = {
    "single": ((0, 0, 0, 12),),
    "beside": ((0, 0, 0, 8), (1, 6, 4, 8)),
    "above": ((1, 4, 6, 8), (0, 0, 0, 8)),
    "with": ((0, 0, 0, 10), (1, 6, 6, 8)),
    "two": ((0, 0, 0, 8), (0, 6, 4, 8)),
    "three": ((0, 3, 0, 7), (0, 0, 7, 7), (0, 7, 7, 7)),
    "four": ((0, 0, 0, 7), (0, 7, 0, 7), (0, 0, 7, 7), (0, 7, 7, 7)),
    "empty": (),
}
_WIDE: dict[str, tuple[Box, ...]] = {
    "single": ((0, 0, 0, 10),),
    "beside": ((0, 0, 0, 10), (1, 10, 0, 10)),
    "above": ((1, 5, 4, 6), (0, 0, 0, 6)),
    "with": ((0, 0, 0, 10), (1, 9, 2, 8)),
    "two": ((0, 0, 0, 10), (0, 10, 0, 10)),
    "two above": ((0, 0, 0, 10), (0, 10, 0, 10)),
    "three": ((0, 0, 0, 8), (0, 12, 0, 8), (0, 6, 2, 8)),
    "four": ((0, 0, 0, 6), (0, 5, 4, 6), (0, 9, 0, 6), (0, 14, 4, 6)),
    "empty": (),
}
SIDES = tuple(sorted({box[3] for table in (_SQUARE, _WIDE) for boxes in table.values() for box in boxes}))


def box_rows(boxes: tuple[Box, ...]) -> Tensor:
    """(MAX_OBJECTS, 4): a scene's boxes; rows of -1 stand for objects that are not there."""
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
