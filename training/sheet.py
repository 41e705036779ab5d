"""Contact sheets: many small pictures with their prompts on one PNG.

Knows how to lay out and caption pictures, and which scenes and prompts every sheet shows; is given the network that
draws them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import autoencoder, codes, concepts, grounds, runtime
from .sampling import sample_codes
from .scenes import LAYOUTS

# layout, ground, first, second: what every training sheet shows, each at two seeds
WATCHED = (
    ("single", "", "cat", ""), ("single", "", "dog", ""), ("single", "red", "rocket", ""),
    ("single", "", "laptop", ""), ("single", "snow", "penguin", ""), ("single", "", "bicycle", ""),
    ("single", "beach", "elephant", ""), ("single", "white", "guitar", ""), ("single", "", "hamburger", ""),
    ("single", "sunset", "city", ""), ("single", "", "castle", ""), ("single", "night sky", "owl", ""),
    ("beside", "", "cat", "laptop"), ("with", "", "cat", "laptop"), ("above", "blue", "apple", "chair"),
    ("two", "", "duck", ""), ("three", "", "strawberry", ""), ("four", "green", "star", ""),
)  # fmt: skip


def lay(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int, side: int = 128) -> Image.Image:
    """A sheet of pictures, row by row, each under the beginning of its caption."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + 20)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = i % columns * (side + 4), i // columns * (side + 20)
        shown = "(in Chinese)" if concepts.CJK.search(caption) else caption  # not in the font that pillow brings
        pen.text((x, y + 2), shown[: side // 6], fill="black", font=font)
        sheet.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (x, y + 18))
    return sheet


def pictures(pixels: Tensor) -> list[Image.Image]:
    """Images of (B, 3, H, W) pixels in -1..1."""
    rows = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(row)) for row in rows]


@torch.no_grad()
def of_codes(
    net: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    codebook: codes.Codes,
    path: Path,
    steps: int = 8,
    guidance: float = 2.0,
) -> None:
    """Save a sheet of the watched scenes, drawn by ``net`` straight from codes, without any words."""
    names = [concept.names[0] for concept in concepts.load(runtime.ART)]
    labels = [
        (
            LAYOUTS.index(layout),
            grounds.NAMES.index(ground),
            names.index(first),
            names.index(second) if second else -1,
        )
        for layout, ground, first, second in WATCHED
        for _ in range(2)
    ]
    cond = codebook.tokens(*torch.tensor(labels).unbind(1))
    latents = sample_codes(net, scheduler, cond, codebook.nothing(), 3, steps, guidance)
    pixels = autoencoder.load().decode(latents).sample
    captions = [" ".join((row[0][:2], *row[1:])) for row in WATCHED for _ in range(2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    lay(pictures(pixels), captions, 12).save(path)


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
