"""Scenes: the pictures to train on, sprites laid over grounds.

Knows what a scene is (objects, layout, ground), draws random scenes and renders them; knows neither
words nor networks.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from . import grounds
from .concepts import Concept

SIZE = 128  # native pixels
LAYOUTS = ("single", "beside", "above", "with", "two", "three", "four", "empty")
PAIRS = ("beside", "above", "with")
LAYOUT_SHARES = (0.34, 0.19, 0.20, 0.10, 0.05, 0.05, 0.05, 0.02)  # once training is past singles
GROUND_SHARES = (0.42, 0.28, 0.30)  # pastel, colours, scenes
GROUND_VARIANTS = 48
CELLS = 16  # the latents' rows and columns
SINGLES = ((12, 1), (10, 2))  # side and least corner of a lone object, in cells
SINGLE_SHARES = (0.65, 0.35)
PLACES = {  # of the other layouts' objects: which of the two, left and top where they are least, and side, in cells
    "beside": ((0, 0, 4, 7), (1, 8, 4, 7)),
    "above": ((1, 4, 8, 7), (0, 4, 0, 7)),
    "with": ((0, 1, 1, 10), (1, 8, 8, 7)),
    "two": ((0, 0, 4, 7), (0, 8, 4, 7)),
    "three": ((0, 4, 0, 7), (0, 0, 8, 7), (0, 8, 8, 7)),
    "four": ((0, 0, 0, 7), (0, 8, 0, 7), (0, 0, 8, 7), (0, 8, 8, 7)),
    "empty": (),
}
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


@dataclass(frozen=True)
class Scene:
    """What a picture shows. An object that is not there is -1."""

    layout: int
    ground: int
    first: int
    second: int = -1


class SceneRenderer:
    """All sprites and grounds in memory, ready to render."""

    def __init__(self, art: Path, concepts: list[Concept], size: int = SIZE) -> None:
        self.size = size
        self.sprites = [load_sprite(art, concept) for concept in concepts]
        rng = np.random.default_rng(7)
        self.grounds = [
            [_image(grounds.paint(g, rng, size)) for _ in range(GROUND_VARIANTS)] for g in range(len(grounds.NAMES))
        ]

    def draw(self, rng: np.random.Generator, shares: tuple[float, ...] = LAYOUT_SHARES) -> Scene:
        """A random scene; ``shares`` are the layouts' probabilities."""
        layout = int(rng.choice(len(LAYOUTS), p=shares))
        if LAYOUTS[layout] == "empty":
            return Scene(layout, int(rng.integers(1, len(grounds.NAMES))), -1)
        first, second = (int(i) for i in rng.choice(len(self.sprites), 2, replace=False))
        return Scene(layout, draw_ground(rng), first, second if LAYOUTS[layout] in PAIRS else -1)

    def render(self, scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:  # (S, S, 3)
        """The scene as a picture. Places, sizes and shades come from the generator."""
        return self.place(scene, rng)[0]

    def place(self, scene: Scene, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        """The scene as a picture, and where its objects are: see `boxes`."""
        variants = self.grounds[scene.ground]
        canvas = variants[int(rng.integers(len(variants)))].copy()
        if rng.random() < 0.5:
            canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        placed = places(scene, rng)
        for concept, x, y, side in placed:
            self._paste(canvas, self.sprites[concept], x, y, side)
        return np.asarray(canvas), boxes(scene, placed)

    def _paste(self, canvas: Image.Image, sprite: Image.Image, x: float, y: float, side: float) -> None:
        """Lay the sprite with its middle at (x, y) and its longer side `side`, all in canvas sides."""
        ratio = side * self.size / max(sprite.size)
        width, height = (max(1, round(s * ratio)) for s in sprite.size)
        small = sprite.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0).convert("RGBA")
        canvas.paste(small, (round(x * self.size - width / 2), round(y * self.size - height / 2)), small)


def draw_ground(rng: np.random.Generator) -> int:
    """A random ground's label."""
    kind = rng.choice(3, p=GROUND_SHARES)
    colours = len(grounds.COLOURS)
    if kind == 0:
        return 0
    return int(rng.integers(1, 1 + colours) if kind == 1 else rng.integers(1 + colours, len(grounds.NAMES)))


def places(scene: Scene, rng: np.random.Generator) -> list[tuple[int, float, float, float]]:
    """(concept, middle x, middle y, longer side) of every object, the farthest first.

    Boxes lie on the latents' cells, so that an object looks the same to the UNet wherever it is put. There are four
    places for all that is in the picture together.
    """
    layout = LAYOUTS[scene.layout]
    shift = rng.integers(2, size=2)  # across and down: of all objects, by one cell, or by two of a lone one
    boxes = PLACES.get(layout, ())
    if layout == "single":
        side, corner = SINGLES[int(rng.choice(len(SINGLES), p=SINGLE_SHARES))]
        boxes, shift = ((0, corner, corner, side),), 2 * shift
    shown = scene.first, scene.second
    across, down = (float(by) for by in shift)
    return [
        (shown[which], (left + across + side / 2) / CELLS, (top + down + side / 2) / CELLS, side / CELLS)
        for which, left, top, side in boxes
    ]


def boxes(scene: Scene, placed: list[tuple[int, float, float, float]]) -> NDArray[np.int8]:
    """(MAX_OBJECTS, 4): of every placed object which of the two it is, its box's left and top, and its side, in cells.

    Rows of -1 stand for objects that are not there.
    """
    rows = np.full((MAX_OBJECTS, 4), -1, np.int8)
    for row, (concept, x, y, side) in zip(rows, placed, strict=False):
        corner = (round((at - side / 2) * CELLS) for at in (x, y))
        row[:] = (int(concept != scene.first), *corner, round(side * CELLS))
    return rows


def load_sprite(art: Path, concept: Concept) -> Image.Image:
    """The object's picture, cut to its outline, with premultiplied alpha."""
    path = art / "node_modules/@lobehub/fluent-emoji-3d/assets" / f"{concept.key}.webp"
    with Image.open(path) as opened:
        sprite = opened.convert("RGBA")
    box = sprite.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    return sprite.crop(box).convert("RGBa")


def _image(picture: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray((picture * 255 + 0.5).astype(np.uint8))
