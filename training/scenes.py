"""Pictures to train on: sprites laid over grounds.

Knows what a scene is (objects, layout, ground), draws random scenes and renders them; knows neither
words nor networks.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import grounds
from .concepts import Concept

SIZE = 128  # native pixels
LAYOUTS = ("single", "beside", "above", "with", "two", "three", "four", "empty")
PAIRS = ("beside", "above", "with")
SHARES = (0.58, 0.15, 0.05, 0.08, 0.05, 0.04, 0.03, 0.02)  # of the layouts, once training is past singles
GROUND_SHARES = (0.42, 0.28, 0.30)  # pastel, colours, scenes
GROUND_VARIANTS = 48


@dataclass(frozen=True)
class Scene:
    """What a picture shows; an object that is not there is -1."""

    layout: int
    ground: int
    first: int
    second: int = -1


class Studio:
    """Sprites and grounds in memory, ready to render."""

    def __init__(self, art: Path, concepts: list[Concept], size: int = SIZE) -> None:
        self.size = size
        self.sprites = [load_sprite(art, concept) for concept in concepts]
        rng = np.random.default_rng(7)
        self.grounds = [
            [_image(grounds.paint(g, rng, size)) for _ in range(GROUND_VARIANTS)] for g in range(len(grounds.NAMES))
        ]

    def draw(self, rng: np.random.Generator, shares: tuple[float, ...] = SHARES) -> Scene:
        """A random scene."""
        layout = int(rng.choice(len(LAYOUTS), p=shares))
        if LAYOUTS[layout] == "empty":
            return Scene(layout, int(rng.integers(1, len(grounds.NAMES))), -1)
        first, second = (int(i) for i in rng.choice(len(self.sprites), 2, replace=False))
        return Scene(layout, draw_ground(rng), first, second if LAYOUTS[layout] in PAIRS else -1)

    def render(self, scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:  # (S, S, 3)
        """The scene as a picture; places, sizes and shades are the generator's."""
        variants = self.grounds[scene.ground]
        canvas = variants[int(rng.integers(len(variants)))].copy()
        if rng.random() < 0.5:
            canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for concept, x, y, side in places(scene, rng):
            self._paste(canvas, self.sprites[concept], x, y, side)
        return np.asarray(canvas)

    def _paste(self, canvas: Image.Image, sprite: Image.Image, x: float, y: float, side: float) -> None:
        """Lay the sprite with its middle at (x, y) and its longer side `side`, all in canvas sides."""
        ratio = side * self.size / max(sprite.size)
        width, height = (max(1, round(s * ratio)) for s in sprite.size)
        small = sprite.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0).convert("RGBA")
        canvas.paste(small, (round(x * self.size - width / 2), round(y * self.size - height / 2)), small)


def draw_ground(rng: np.random.Generator) -> int:
    kind = rng.choice(3, p=GROUND_SHARES)
    colours = len(grounds.COLOURS)
    if kind == 0:
        return 0
    return int(rng.integers(1, 1 + colours) if kind == 1 else rng.integers(1 + colours, len(grounds.NAMES)))


def places(scene: Scene, rng: np.random.Generator) -> list[tuple[int, float, float, float]]:
    """(concept, middle x, middle y, longer side) of every object, the farthest first."""
    layout = LAYOUTS[scene.layout]
    if layout == "empty":
        return []
    first, second = scene.first, scene.second
    if layout == "single":
        side = rng.uniform(0.62, 0.92)
        free = (1 - side) / 2 * 0.9
        return [(first, 0.5 + rng.uniform(-free, free), 0.5 + rng.uniform(-free, free), side)]
    shift = rng.uniform(-0.03, 0.03, 8)
    size = rng.uniform(0.92, 1.06)
    if layout == "beside":
        return [
            (first, 0.26 + shift[0], 0.5 + 2 * shift[1], 0.45 * size),
            (second, 0.74 + shift[2], 0.5 + 2 * shift[3], 0.45 * size),
        ]
    if layout == "above":
        return [
            (second, 0.5 + 2 * shift[0], 0.74 + shift[1], 0.45 * size),
            (first, 0.5 + 2 * shift[2], 0.26 + shift[3], 0.45 * size),
        ]
    if layout == "with":
        return [
            (first, 0.39 + shift[0], 0.39 + shift[1], 0.62 * size),
            (second, 0.72 + shift[2], 0.72 + shift[3], 0.43 * size),
        ]
    spots = {
        "two": ((0.26, 0.5), (0.74, 0.5)),
        "three": ((0.5, 0.27), (0.26, 0.73), (0.74, 0.73)),
        "four": ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)),
    }[layout]
    side = 0.43 * size
    return [(first, x + shift[2 * i] / 2, y + shift[2 * i + 1] / 2, side) for i, (x, y) in enumerate(spots)]


def load_sprite(art: Path, concept: Concept) -> Image.Image:
    """The object's picture, cut to its outline, with premultiplied alpha."""
    path = art / "node_modules/@lobehub/fluent-emoji-3d/assets" / f"{concept.key}.webp"
    with Image.open(path) as opened:
        sprite = opened.convert("RGBA")
    box = sprite.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    return sprite.crop(box).convert("RGBa")


def _image(picture: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray((picture * 255 + 0.5).astype(np.uint8))
