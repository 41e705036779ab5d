"""Grounds: what lies behind the objects, a pastel gradient, twelve colours or eight scenes.

Knows how to paint a ground from a random generator, and its name; knows nothing of objects. A ground's index in `NAMES`
is its label everywhere else. Every painting differs in shade.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]  # height and width
Picture = NDArray[np.float32]  # (H, W, 3), 0..1

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40), "orange": (245, 140, 30), "yellow": (250, 214, 50), "green": (50, 150, 70),
    "blue": (40, 90, 205), "purple": (130, 60, 180), "pink": (245, 150, 185), "brown": (125, 85, 55),
    "black": (16, 16, 18), "white": (252, 252, 252), "gray": (140, 142, 146), "turquoise": (60, 200, 195),
}  # fmt: skip
SCENES = ("night sky", "sunset", "beach", "meadow", "snow", "space", "underwater", "desert")
NAMES: tuple[str, ...] = ("", *COLOURS, *SCENES)  # 0: no ground asked for, a pastel gradient


def paint(ground: int, rng: np.random.Generator, height: int = 128, width: int | None = None) -> Picture:
    """One random painting of a ground, square unless a width is given."""
    size = height, width or height
    name = NAMES[ground]
    if not name:
        picture = _pastel(rng, size)
    elif name in COLOURS:
        picture = _colour(name, rng, size)
    else:
        picture = _SCENES[name](rng, size)
    return np.clip(picture, 0, 1).astype(np.float32)


def _gradient(size: Size, *stops: tuple[int, int, int]) -> Picture:
    """A vertical gradient through the given colours, top first."""
    at = np.linspace(0, len(stops) - 1, size[0])
    channels = [np.interp(at, np.arange(len(stops)), [s[c] / 255 for s in stops]) for c in range(3)]
    return np.repeat(np.stack(channels, -1)[:, None, :], size[1], 1).astype(np.float32)


def _shade(picture: Picture, rng: np.random.Generator, amount: float = 0.07) -> Picture:
    """The picture, lighter or darker, and a little warmer or colder."""
    tint = 1 + rng.uniform(-amount, amount) + rng.uniform(-0.03, 0.03, 3)
    return picture * tint.astype(np.float32)


def _pastel(rng: np.random.Generator, size: Size) -> Picture:
    hue = rng.uniform(0, 2 * np.pi)
    phase = hue + np.array([0, 2.1, 4.2])
    top = 0.86 + 0.11 * np.cos(phase)
    low = top + rng.uniform(-0.06, 0.03)
    blend = np.linspace(0, 1, size[0])[:, None, None]
    return np.broadcast_to(top * (1 - blend) + low * blend, (*size, 3)).astype(np.float32)


def _colour(name: str, rng: np.random.Generator, size: Size) -> Picture:
    flat = np.full((*size, 3), np.array(COLOURS[name]) / 255, np.float32)
    if name == "white":
        return flat * np.float32(rng.uniform(0.97, 1.0))
    fall = np.linspace(rng.uniform(0.98, 1.08), rng.uniform(0.90, 1.0), size[0])[:, None, None]
    lift = rng.uniform(0, 0.05) if name == "black" else 0.0
    return _shade(flat * fall.astype(np.float32) + np.float32(lift), rng)


def _dots(picture: Picture, rng: np.random.Generator, count: int, lowest: float) -> None:
    rows, columns = picture.shape[:2]
    unit = max(1, min(rows, columns) // 128)
    for _ in range(count):
        y, x = int(rng.integers(0, int(rows * lowest))), int(rng.integers(0, columns))
        picture[y : y + unit * int(rng.integers(1, 3)), x : x + unit] = rng.uniform(0.6, 1.0)


def _disc(picture: Picture, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    height, width = picture.shape[:2]
    rows, columns = np.ogrid[0:height, 0:width]
    far = np.hypot(columns - x * width, rows - y * height)
    cover = np.clip(radius * min(height, width) - far + 0.5, 0, 1)[..., None]
    picture[:] = picture * (1 - cover) + np.array(colour) / 255 * cover


def _floor(picture: Picture, rng: np.random.Generator, top: float, low: Picture, wave: float) -> None:
    """Lay the lower picture over all below the wavy line ``top``."""
    height, width = picture.shape[:2]
    columns = np.arange(width) / height
    line = top + wave * np.sin(columns * rng.uniform(4, 8) + rng.uniform(0, 6.3))
    cover = np.clip(np.arange(height)[:, None] - line[None] * height + 0.5, 0, 1)[..., None]
    picture[:] = picture * (1 - cover) + low * cover


def _night(rng: np.random.Generator, size: Size) -> Picture:
    picture = _shade(_gradient(size, (14, 20, 60), (28, 40, 100), (50, 60, 130)), rng)
    _dots(picture, rng, 30, 0.8)
    _disc(picture, rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2), 0.06, (250, 244, 210))
    return picture


def _sunset(rng: np.random.Generator, size: Size) -> Picture:
    picture = _shade(_gradient(size, (90, 50, 130), (225, 85, 95), (255, 160, 70), (255, 205, 110)), rng)
    _disc(picture, rng.uniform(0.1, 0.9), 0.72, 0.1, (255, 236, 160))
    _floor(picture, rng, rng.uniform(0.76, 0.82), _gradient(size, (110, 50, 90), (70, 34, 80)), 0.015)
    return picture


def _beach(rng: np.random.Generator, size: Size) -> Picture:
    picture = _shade(_gradient(size, (90, 185, 245), (190, 230, 250)), rng)
    sea = rng.uniform(0.42, 0.5)
    _floor(picture, rng, sea, _gradient(size, (30, 140, 200), (60, 190, 210)), 0.0)
    _floor(picture, rng, sea + 0.24, _gradient(size, (250, 225, 165), (232, 196, 130)), 0.02)
    return picture


def _meadow(rng: np.random.Generator, size: Size) -> Picture:
    picture = _shade(_gradient(size, (110, 190, 250), (205, 235, 250)), rng)
    _floor(picture, rng, rng.uniform(0.55, 0.65), _gradient(size, (150, 205, 90), (70, 150, 60)), 0.035)
    return picture


def _snow(rng: np.random.Generator, size: Size) -> Picture:
    picture = _shade(_gradient(size, (150, 190, 225), (215, 230, 242)), rng, 0.04)
    _floor(picture, rng, rng.uniform(0.6, 0.68), _gradient(size, (250, 252, 255), (225, 235, 248)), 0.03)
    for _ in range(26):
        _disc(picture, rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.007, 0.013), (255, 255, 255))
    return picture


def _space(rng: np.random.Generator, size: Size) -> Picture:
    picture = _shade(_gradient(size, (10, 6, 26), (24, 10, 46), (12, 8, 30)), rng)
    _dots(picture, rng, 60, 1.0)
    planet = ((210, 120, 80), (120, 150, 220), (190, 160, 220))[int(rng.integers(0, 3))]
    _disc(picture, rng.uniform(0.05, 0.95), rng.choice([0.1, 0.9]), rng.uniform(0.05, 0.09), planet)
    return picture


def _underwater(rng: np.random.Generator, size: Size) -> Picture:
    picture = _shade(_gradient(size, (90, 205, 225), (25, 120, 185), (10, 60, 125)), rng)
    _floor(picture, rng, rng.uniform(0.84, 0.9), _gradient(size, (190, 180, 130), (150, 140, 100)), 0.02)
    for _ in range(9):
        _disc(picture, rng.uniform(0, 1), rng.uniform(0, 0.8), rng.uniform(0.01, 0.025), (170, 230, 245))
    return picture


def _desert(rng: np.random.Generator, size: Size) -> Picture:
    picture = _shade(_gradient(size, (120, 195, 240), (245, 225, 185)), rng)
    _disc(picture, rng.uniform(0.1, 0.9), 0.15, 0.07, (255, 240, 150))
    _floor(picture, rng, rng.uniform(0.55, 0.62), _gradient(size, (235, 180, 105), (205, 140, 75)), 0.05)
    return picture


_SCENES: dict[str, Callable[[np.random.Generator, Size], Picture]] = {
    "night sky": _night, "sunset": _sunset, "beach": _beach, "meadow": _meadow,
    "snow": _snow, "space": _space, "underwater": _underwater, "desert": _desert,
}  # fmt: skip
