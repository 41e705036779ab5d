"""The pool: random scenes, rendered and encoded once, that the UNet then learns from.

Knows scenes and the autoencoder; knows neither words nor noise. A shard holds `SHARD` latents and their
labels; the first shards hold mostly single objects, the later ones everything.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from . import autoencoder, concepts, runtime
from .scenes import SHARES, Scene, Studio

FOLDER = runtime.BUILD / "pool"
SHARD, BATCH = 4096, 32
SHARDS, EASY_SHARDS = 30, 6
EASY = (0.84, 0.06, 0.02, 0.02, 0.02, 0.01, 0.01, 0.02)


def fill(shards: int, first: int = 0) -> None:
    """Make the shards that are not there yet."""
    runtime.quiet_start(13)
    FOLDER.mkdir(exist_ok=True)
    studio = Studio(runtime.ART, concepts.load(runtime.ART))
    net = autoencoder.load()
    for number in range(first, shards):
        path = FOLDER / f"{number:04}.pt"
        if path.exists():
            continue
        began = time.monotonic()
        rng = np.random.default_rng(50_000 + number)
        shares = EASY if number < EASY_SHARDS else SHARES
        scenes = [studio.draw(rng, shares) for _ in range(SHARD)]
        latents = torch.cat([encode(studio, net, scenes[i : i + BATCH], rng) for i in range(0, SHARD, BATCH)])
        labels = torch.tensor([[s.layout, s.ground, s.first, s.second] for s in scenes], dtype=torch.int16)
        runtime.save(path, {"latents": latents, "labels": labels})
        print(f"shard {number}, {SHARD / (time.monotonic() - began):.0f} pictures/s", flush=True)


@torch.no_grad()
def encode(studio: Studio, net: AutoencoderTiny, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
    """(B, 4, 16, 16) latents in half precision."""
    rows = np.stack([studio.render(scene, rng) for scene in scenes])
    pixels = torch.from_numpy(rows).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    with torch.autocast("cpu", torch.bfloat16):
        latents: Tensor = net.encoder(pixels.contiguous(memory_format=torch.channels_last))
    return latents.half().contiguous()


def load(already: set[Path]) -> list[tuple[Tensor, Tensor]]:
    """The shards on the disk that the caller has not read yet; their names join `already`."""
    fresh = [path for path in sorted(FOLDER.glob("*.pt")) if path not in already]
    already.update(fresh)
    shards = [torch.load(path, weights_only=True) for path in fresh]
    return [(shard["latents"], shard["labels"]) for shard in shards]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    fill(options.shards, options.first)


if __name__ == "__main__":
    main()
