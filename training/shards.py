"""Shards: random scenes, rendered and encoded once, that the UNet then learns from.

Knows scenes, codes and the autoencoder; knows neither words nor noise. A shard holds `SHARD_SIZE` latents and their
labels. The first shards hold mostly single objects, the later ones everything.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from . import autoencoder, codes, concepts, runtime
from .scenes import LAYOUT_SHARES, Scene, SceneRenderer

FOLDER = runtime.BUILD / "pool"  # its first name, so that shards made long ago are found
SHARD_SIZE, BATCH = 4096, 32
SHARDS, EASY_SHARDS = 30, 6
EASY_LAYOUT_SHARES = (0.84, 0.06, 0.02, 0.02, 0.02, 0.01, 0.01, 0.02)


def fill(shards: int, first: int = 0) -> None:
    """Make the shards that are not there yet."""
    runtime.set_up(13)
    FOLDER.mkdir(exist_ok=True)
    known, net = concepts.load(runtime.ART), autoencoder.load()
    codes.load(runtime.ART, known, net)  # they are made of the same latents
    renderer = SceneRenderer(runtime.ART, known)
    for number in range(first, shards):
        path = FOLDER / f"{number:04}.pt"
        if path.exists():
            continue
        began = time.monotonic()
        rng = np.random.default_rng(50_000 + number)
        layout_shares = EASY_LAYOUT_SHARES if number < EASY_SHARDS else LAYOUT_SHARES
        scenes = [renderer.draw(rng, layout_shares) for _ in range(SHARD_SIZE)]
        parts = [encode(renderer, net, scenes[i : i + BATCH], rng) for i in range(0, SHARD_SIZE, BATCH)]
        latents, boxes = (torch.cat(column) for column in zip(*parts, strict=True))
        labels = torch.tensor([[s.layout, s.ground, s.first, s.second] for s in scenes], dtype=torch.int16)
        runtime.save(path, {"latents": latents, "labels": labels, "boxes": boxes})
        print(f"shard {number}, {SHARD_SIZE / (time.monotonic() - began):.0f} pictures/s", flush=True)


@torch.no_grad()
def encode(
    renderer: SceneRenderer, net: AutoencoderTiny, scenes: list[Scene], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(B, 4, 16, 16) latents in half precision, and (B, MAX_OBJECTS, 4) where the objects are."""
    rows, boxes = zip(*(renderer.place(scene, rng) for scene in scenes), strict=True)
    pixels = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    with runtime.autocast():
        latents: Tensor = net.encoder(pixels.contiguous(memory_format=torch.channels_last))
    return latents.half().contiguous(), torch.from_numpy(np.stack(boxes))


def load(already: set[Path]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(latents, labels, boxes) of the shards that the caller has not read yet; their paths join `already`."""
    fresh = [path for path in sorted(FOLDER.glob("*.pt")) if path not in already]
    already.update(fresh)
    states = [torch.load(path, weights_only=True) for path in fresh]
    return [(state["latents"], state["labels"], state["boxes"]) for state in states]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    fill(options.shards, options.first)


if __name__ == "__main__":
    main()
