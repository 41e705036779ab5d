"""How long until the first picture, against a script that does the same with diffusers alone?

    python -m bench.first_picture    # 2 minutes on two quiet cores; writes bench/out/first_picture.md

All draw the embedded model's first picture with the same seed and steps and write it to a file, each in a process of
its own that begins with nothing, by turns: a bare script, `darkroom generate --local`, and `darkroom serve` with a
request that is sent as soon as it listens.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from bench import tables
from tests.running import ROOT, start

BAR = 1.2  # times the bare script
MODEL, STEPS, SEED = "darkroom-mini", 8, 7
BARE, LOCAL, SERVED = "bare diffusers", "darkroom generate --local", "darkroom serve, and a request"
IMPORTS = "importing torch and the model's classes"

_PREPARED = """
import os, sys
os.environ.update(HF_HUB_OFFLINE="1")
import torch
from diffusers import {classes}
from transformers import CLIPTextModel, CLIPTokenizer
"""
_CLASSES = "AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel"
_DRAWN = """
pipeline = StableDiffusionPipeline.from_pretrained(
    sys.argv[1], local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
)
pipeline.set_progress_bar_config(disable=True)
pipeline(
    "a red apple",
    num_inference_steps=int(sys.argv[2]),
    guidance_scale=2.5,
    width=128,
    height=128,
    generator=torch.Generator("cpu").manual_seed(int(sys.argv[3])),
).images[0].save(sys.argv[4])
"""


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    return {**clean, "DARKROOM_DEVICES": "cpu"}


def python(*arguments: str) -> float:
    """Seconds that a process takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, env=environment(), stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - began


def imports(folder: Path) -> float:
    return python("-c", _PREPARED.format(classes=_CLASSES) + "os._exit(0)")


def bare(folder: Path) -> float:
    script = _PREPARED.format(classes="StableDiffusionPipeline") + _DRAWN
    return python("-c", script, str(ROOT / "weights" / MODEL), str(STEPS), str(SEED), str(folder / "bare.png"))


def local(folder: Path) -> float:
    fields = ("-m", MODEL, "--seed", str(SEED), "--steps", str(STEPS), "--size", "128x128", "--no-show")
    return python("-m", "server", "generate", "--local", "a red apple", *fields, "--out", str(folder / "local.png"))


def served(folder: Path) -> float:
    began = time.perf_counter()
    with start(folder / "data", wait=False, devices="cpu") as running:
        fields = {"model": MODEL, "seed": SEED, "num_inference_steps": STEPS, "size": "128x128"}
        running.draw(**fields, response_format="b64_json").raise_for_status()
        return time.perf_counter() - began


WAYS: dict[str, Callable[[Path], float]] = {IMPORTS: imports, BARE: bare, LOCAL: local, SERVED: served}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many is printed (default: 5)")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(arguments.rounds + 1):
        for name, way in WAYS.items():
            with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder:
                seconds = way(Path(folder))
            if number:  # the first fills the system's cache
                found[name].append(seconds)
        print(f"round {number} of {arguments.rounds}", flush=True)
    rows = []
    for name, values in found.items():
        ratios = [value / least for value, least in zip(values, found[BARE], strict=True)]
        shown = ", ".join(f"{value:.2f}" for value in values)
        rows.append((name, shown, f"{tables.median(values):.2f}", f"{tables.median(ratios):.2f}"))
    tables.publish(
        "first_picture",
        "## From nothing to the first picture",
        f"Seconds, all by turns; the ratio is the median of each round's. The bar: {BAR:g}.",
        tables.table(("", "by round", "median", "÷ bare"), rows),
    )


if __name__ == "__main__":
    main()
