"""Contact sheets: many small pictures with their prompts on one PNG.

Knows how to lay out and caption pictures, and which scenes and prompts every sheet shows; is given what draws them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import colours, grounds
from .concepts import CJK
from .plans import SQUARE, TALL, WIDE
from .scenes import LAYOUTS

SIDE = 128  # of a picture on a sheet
COLUMNS = 8
Cells = tuple[int, int]
Row = tuple[str, str, str, str, str, str]

# layout, ground, first, its colour, second, its colour: what every training sheet shows
NAMED: tuple[Row, ...] = tuple(
    ("single", ground, name, "", "", "")
    for ground, name in (
        ("", "cat"), ("", "dog"), ("red", "rocket"), ("", "laptop"), ("snow", "penguin"), ("", "bicycle"),
        ("beach", "elephant"), ("white", "guitar"), ("", "hamburger"), ("sunset", "city"), ("", "castle"),
        ("night sky", "owl"), ("", "car"), ("", "apple"), ("meadow", "rabbit"), ("underwater", "shark"),
    )
)  # fmt: skip
COLOURED: tuple[Row, ...] = tuple(
    ("single", ground, name, colour, "", "")
    for ground, colour, name in (
        ("", "blue", "car"), ("", "black", "cat"), ("", "white", "dog"), ("", "green", "apple"),
        ("", "red", "banana"), ("", "purple", "elephant"), ("", "pink", "bicycle"), ("", "yellow", "rocket"),
        ("", "orange", "owl"), ("", "brown", "horse"), ("", "gray", "rabbit"), ("", "turquoise", "guitar"),
        ("white", "green", "cat"), ("blue", "red", "bird"), ("", "blue", "rose"), ("beach", "red", "sailboat"),
        ("", "white", "cat"), ("", "black", "car"), ("snow", "blue", "house"), ("", "green", "dragon"),
    )
)  # fmt: skip
TOGETHER: tuple[Row, ...] = (
    ("beside", "", "cat", "", "laptop", ""), ("with", "", "cat", "", "laptop", ""),
    ("above", "blue", "apple", "", "chair", ""), ("beside", "", "dog", "black", "cat", "white"),
    ("beside", "", "car", "red", "bicycle", "blue"), ("above", "", "airplane", "", "house", ""),
    ("with", "", "bear", "", "honey pot", ""), ("beside", "white", "robot", "", "guitar", ""),
    ("two", "", "duck", "", "", ""), ("three", "", "strawberry", "", "", ""), ("four", "green", "star", "", "", ""),
    ("two", "", "apple", "green", "", ""),
)  # fmt: skip
LONG: tuple[Row, ...] = (
    ("single", "", "cat", "", "", ""), ("single", "sunset", "city", "", "", ""), ("single", "", "car", "blue", "", ""),
    ("beside", "", "cat", "", "laptop", ""), ("beside", "", "dog", "", "bicycle", ""),
    ("above", "", "owl", "", "pine tree", ""),
    ("two", "", "duck", "", "", ""), ("three", "red", "balloon", "", "", ""),
)  # fmt: skip
WATCHED: tuple[tuple[Cells, tuple[Row, ...]], ...] = (
    (SQUARE, NAMED + COLOURED + TOGETHER),
    (WIDE, LONG),
    (TALL, LONG),
)  # 64 pictures


def labels_of(rows: Sequence[Row], names: Sequence[str]) -> Tensor:
    """(N, 6) labels of rows; an object that the art does not have gives way to some other."""

    def concept(name: str, n: int) -> int:
        return names.index(name) if name in names else (n % len(names) if name else -1)

    def colour(name: str) -> int:
        return colours.NAMES.index(name) if name else -1

    return torch.tensor(
        [
            (
                LAYOUTS.index(layout), grounds.NAMES.index(ground),
                concept(first, n), colour(tint), concept(second, n + 1), colour(second_tint),
            )
            for n, (layout, ground, first, tint, second, second_tint) in enumerate(rows)
        ]
    )  # fmt: skip


def caption_of(labels: Sequence[int], names: Sequence[str]) -> str:
    """A few words that say what a row of labels is."""
    layout, ground, first, tint, second, second_tint = labels
    words = [] if LAYOUTS[layout] == "single" else [LAYOUTS[layout]]
    for concept, colour in ((first, tint), (second, second_tint)):
        words += [colours.NAMES[colour]] if colour >= 0 and concept >= 0 else []
        words += [names[concept]] if concept >= 0 else []
    return " ".join([*words, *([f"/ {grounds.NAMES[ground]}"] if ground > 0 else [])])


def of_watched(draw: Callable[[Tensor, Cells], Tensor], names: Sequence[str], path: Path) -> None:
    """Save the sheet of the watched scenes; ``draw`` makes (B, 3, H, W) pixels of (B, 6) labels and a shape."""
    shown: list[Image.Image] = []
    captions: list[str] = []
    for cells, rows in WATCHED:
        labels = labels_of(rows, names)
        shown += pictures(draw(labels, cells))
        captions += [caption_of(row, names) for row in labels.tolist()]
    save(lay(shown, captions, COLUMNS, SIDE), path)


def of_pairs(real: Tensor, made: Tensor, path: Path) -> None:
    """Save a sheet of pictures, each beside what was made of it."""
    shown = [picture for pair in zip(pictures(real), pictures(made), strict=True) for picture in pair]
    save(lay(shown, ["true", "made"] * len(real), COLUMNS, SIDE), path)


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet so that a crash leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    sheet.save(part, "PNG")
    part.replace(path)


def lay(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int, side: int = SIDE) -> Image.Image:
    """A sheet of pictures, row by row, each under the beginning of its caption."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + 20)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = i % columns * (side + 4), i // columns * (side + 20)
        shown = "(in Chinese)" if CJK.search(caption) else caption  # not in the font that pillow brings
        pen.text((x, y + 2), shown[: side // 6], fill="black", font=font)
        ratio = side / max(picture.size)
        size = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
        small = picture.resize(size, Image.Resampling.BICUBIC)
        sheet.paste(small, (x + (side - size[0]) // 2, y + 18 + (side - size[1]) // 2))
    return sheet


def pictures(pixels: Tensor) -> list[Image.Image]:
    """Images of (B, 3, H, W) pixels in -1..1."""
    rows = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(row)) for row in rows]


PROMPTS = tuple(
    """A photorealistic image of a cat programming on a laptop
An oil painting of a futuristic city skyline at sunset, with flying cars
a cat programming on a laptop
a city at dusk
a cat
a dog on a red background
a rocket in space
a penguin in the snow
a cactus in the desert
a shark underwater
a pizza on a blue background
a cat and a dog
a robot on the left and a guitar on the right
three strawberries
two owls on a purple background
four red apples
a unicorn at sunset
a dragon over a castle
a kitten
a cute puppy, 4k, highly detailed
a wizard at night
a spaceship
一隻貓
一只狗在太空中
紅色背景上的火箭
左邊是蘋果,右邊是香蕉
海灘上的貓
a lion in a meadow
an astronaut in space
a beautiful flower
a car and a bicycle on a yellow background
an owl reading a book
please paint me one really nice butterfly for my kids
a ghost on a black background
a panda on a green background
a sailboat on the beach""".splitlines()
)
