"""Measures of pictures: counts, pairs, grounds, seeds, steps, speed, image-to-image and inpainting.

Knows pixels and pipelines; knows nothing of training. Accuracies are 0 or 1 a picture. `SHOWN` holds the measures that
need several pictures of one prompt.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from . import grounds, matching, scenes, sheet
from .matching import Matcher
from .questions import Question
from .sampling import generate

COUNTS = {2: "two", 3: "three", 4: "four"}
SPOTS = {  # where the middles of objects lie in pictures of the first weights that shipped
    "two": ((0.26, 0.5), (0.74, 0.5)),
    "three": ((0.5, 0.27), (0.26, 0.73), (0.74, 0.73)),
    "four": ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)),
    "beside": ((0.26, 0.5), (0.74, 0.5)),
    "above": ((0.5, 0.26), (0.5, 0.74)),
    "with": ((0.39, 0.39), (0.75, 0.75)),
}
Spots = tuple[tuple[float, float], ...]
VARIED = (
    "a cat",
    "a rocket",
    "a red apple",
    "a castle",
    "a guitar",
    "a dog on a blue background",
    "a ship at sunset",
    "一隻貓",
)
EDITED = (
    ("a cat", "a dog"),
    ("an apple on a blue background", "a pumpkin on a blue background"),
    ("a car", "a bus"),
)


class GroundReferences:
    """Borders of many paintings of every ground, to compare a picture's border with."""

    def __init__(self, each: int = 12) -> None:
        rng = np.random.default_rng(77)
        paintings = [(g, grounds.paint(g, rng)) for g in range(len(grounds.NAMES)) for _ in range(each)]
        self.labels = [g for g, _ in paintings]
        self.borders = torch.stack([_border(Image.fromarray((p * 255).astype(np.uint8))) for _, p in paintings])

    def nearest(self, picture: Image.Image) -> int:
        """The label of the ground whose border is nearest to the picture's."""
        return self.labels[int((self.borders - _border(picture)).abs().mean(1).argmin())]


def _border(picture: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture.convert("RGB").resize((32, 32), Image.Resampling.BOX), np.float32) / 255)
    return torch.cat(
        (pixels[:3].flatten(), pixels[-3:].flatten(), pixels[3:-3, :3].flatten(), pixels[3:-3, -3:].flatten())
    )


def spots(layout: str) -> list[Spots]:
    """The ways in which a layout's objects may lie, as middles of objects, the first object before the second."""
    boxes = sorted(scenes.arrangement(layout), key=lambda box: box[0])
    laid = tuple(((left + side / 2) / scenes.CELLS, (top + side / 2) / scenes.CELLS) for _, left, top, side in boxes)
    return list(dict.fromkeys((SPOTS[layout], laid)))


def counted(matcher: Matcher, picture: Image.Image, question: Question) -> dict[str, float]:
    """Whether every spot of one of the ways of the layout shows the object, and how many things there are."""
    wanted, ways = question.objects[0], spots(COUNTS[question.count])
    there = {spot: int(matcher.errors(picture, spot, 0.09).argmin()) == wanted for way in ways for spot in way}
    best = max(sum(there[spot] for spot in way) / len(way) for way in ways)
    number = float(blobs(picture) == question.count)
    return {"every one right": float(best == 1), "some right": best, "as many blobs": number}


def both(matcher: Matcher, over: Matcher, picture: Image.Image, question: Question) -> dict[str, float]:
    """Whether both objects are there, each on its side, in one of the ways of the layout.

    ``over`` knows the size of an object that lies over the first one, of which the rest would mislead the matcher.
    """
    layout = question.kind.removeprefix("pairs ")
    seen: dict[tuple[int, tuple[float, float]], float] = {}
    for way in (ways := spots(layout)):
        for which, spot in enumerate(way):
            if (which, spot) in seen:
                continue
            look, slack = (over, 0.07) if layout == "with" and which == 1 else (matcher, 0.1)
            nearest = int(look.errors(picture, spot, slack).argmin())
            seen[which, spot] = float(nearest == question.objects[which])
    pairs = [[seen[which, spot] for which, spot in enumerate(way)] for way in ways]
    first, second = (max(pair[which] for pair in pairs) for which in range(2))
    return {"both right": max(min(pair) for pair in pairs), "first right": first, "second right": second}


def blobs(picture: Image.Image) -> int:
    """How many separate things stand out from the ground."""
    pixels = matching.pixels_of(picture)
    off = (pixels - matching.ground_of(pixels)).norm(dim=0) > 0.16
    labels = torch.where(off, torch.arange(1.0, off.numel() + 1).view_as(off), torch.zeros(off.shape))
    for _ in range(matching.SIDE * 3):
        spread = torch.nn.functional.max_pool2d(labels[None, None], 3, 1, 1)[0, 0]
        labels = torch.where(off, spread, labels)
    sizes = torch.bincount(labels[off].long())
    return int((sizes > 0.012 * off.numel()).sum())


def array(picture: Image.Image) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = np.array(picture.convert("RGB"), np.float32) / np.float32(255)
    return pixels


def decibels(one: Image.Image, other: Image.Image) -> float:
    return float(-10 * np.log10(np.mean((array(one) - array(other)) ** 2) + 1e-9))


def seeds(pipeline: StableDiffusionPipeline, out: Path) -> dict[str, float]:
    """How much eight pictures of one prompt differ: in pixels, and in place, size and shade of the ground."""
    rows: list[list[float]] = []
    shown: list[Image.Image] = []
    for prompt in VARIED:
        made = generate(pipeline, [prompt] * 8, 500)
        shown += made
        stack = np.stack([array(picture) for picture in made])
        apart = [float(np.abs(a - b).mean()) for n, a in enumerate(stack) for b in stack[:n]]
        boxes = np.array([_box(picture) for picture in made])
        rows.append([float(np.mean(apart)), *boxes[:, :3].std(0).tolist(), float(boxes[:, 3:].std(0).mean())])
    sheet.lay(shown, [p for p in VARIED for _ in range(8)], 8).save(out / "seeds.png")
    names = ("mean pixel difference", "spread of x", "spread of y", "spread of size", "spread of shade")
    return {name: round(float(value), 4) for name, value in zip(names, np.mean(rows, 0), strict=True)}


def _box(picture: Image.Image) -> list[float]:
    """Middle x and y and size of what stands out from the ground, in frames; and the ground's colour."""
    pixels = matching.pixels_of(picture)
    ground = matching.ground_of(pixels)
    off = ((pixels - ground).norm(dim=0) > 0.16).float()
    at = torch.linspace(0, 1, matching.SIDE)
    total = off.sum().clamp(min=1)
    x, y = float((off.sum(0) * at).sum() / total), float((off.sum(1) * at).sum() / total)
    return [x, y, float(total.sqrt() / matching.SIDE), *ground.mean((1, 2)).tolist()]


def steps(pipeline: StableDiffusionPipeline, out: Path) -> dict[str, float]:
    """How near pictures of few steps come to those of 50 steps and the same seeds."""
    prompts = [p for p in sheet.PROMPTS if "|" not in p][:16]
    best = generate(pipeline, prompts, 900, 50)
    shown, figures = [], {}
    for count in (4, 8, 20):
        made = generate(pipeline, prompts, 900, count)
        shown += made
        figures[f"dB of {count} steps"] = round(
            float(np.mean([decibels(a, b) for a, b in zip(made, best, strict=True)])), 2
        )
    sheet.lay([*shown, *best], [f"{n}: {p}" for n in (4, 8, 20, 50) for p in prompts], 16).save(out / "steps.png")
    return figures


def speed(pipeline: StableDiffusionPipeline, out: Path) -> dict[str, float]:
    """Seconds a picture at 8 steps: the best of several runs, for the machine is shared."""
    figures = {}
    for batch in (1, 4, 8):
        taken = []
        for n in range(6):
            began = time.perf_counter()
            generate(pipeline, ["a cat"] * batch, n)
            taken.append((time.perf_counter() - began) / batch)
        figures[f"batch {batch}, best"] = round(min(taken), 3)
        figures[f"batch {batch}, median"] = round(float(np.median(taken)), 3)
    figures["threads"] = torch.get_num_threads()
    return figures


def editing(pipeline: StableDiffusionPipeline, out: Path) -> dict[str, float]:
    """Image-to-image at strengths 0.3 and 0.9, and inpainting of the right half."""
    to_image = AutoPipelineForImage2Image.from_pipe(pipeline)
    inpaint = AutoPipelineForInpainting.from_pipe(pipeline)
    for pipe in (to_image, inpaint):
        pipe.set_progress_bar_config(disable=True)
    shown: list[Image.Image] = []
    rows: list[list[float]] = []
    for old, new in EDITED:
        source = generate(pipeline, [old], 42)[0]
        shared = {"num_inference_steps": 20, "guidance_scale": 2.0}
        kept = to_image(new, image=source, strength=0.3, generator=_generator(), **shared).images[0]
        changed = to_image(new, image=source, strength=0.9, generator=_generator(), **shared).images[0]
        mask = Image.new("L", source.size, 0)
        ImageDraw.Draw(mask).rectangle((source.width // 2, 0, source.width, source.height), fill=255)
        size = {"width": source.width, "height": source.height}
        filled = inpaint(
            new, image=source, mask_image=mask, strength=1.0, generator=_generator(), **size, **shared
        ).images[0]
        shown += [source, kept, changed, filled]
        outside = np.abs(array(filled) - array(source))[:, : source.width // 2 - 8].mean()
        inside = np.abs(array(filled) - array(source))[:, source.width // 2 :].mean()
        rows.append([decibels(kept, source), decibels(changed, source), float(outside), float(inside)])
    captions = [c for old, new in EDITED for c in (old, f"0.3 {new}", f"0.9 {new}", f"fill {new}")]
    sheet.lay(shown, captions, 4).save(out / "editing.png")
    names = (
        "dB to source at 0.3",
        "dB to source at 0.9",
        "inpainting: change outside",
        "inpainting: change inside",
    )
    return {name: round(float(value), 4) for name, value in zip(names, np.mean(rows, 0), strict=True)}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


SHOWN: dict[str, Callable[[StableDiffusionPipeline, Path], dict[str, float]]] = {
    "seeds": seeds,
    "steps": steps,
    "speed": speed,
    "editing": editing,
}
