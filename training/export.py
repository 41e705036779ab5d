"""From checkpoints to `build/darkroom-mini/`: a folder that stock diffusers loads, in half precision.

Knows the folder's form, its size limit and its model card; knows nothing of training.
"""

import argparse
import json
import shutil
import warnings
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from . import autoencoder, concepts, runtime, text_encoder, tokens, unet, words

WEIGHTS = runtime.BUILD / "darkroom-mini"  # weights/darkroom-mini ships; `ship` writes a better one there
CARD = Path(__file__).parent / "data/model_card.md"
LICENCE = Path(__file__).parent / "data/LICENSE-fluent-emoji"
LIMIT = 30_000_000  # bytes


def export(folder: Path = WEIGHTS) -> int:
    """Write the newest EMA weights; returns the folder's size in bytes."""
    tokenizer = tokens.load(words.load(concepts.load(runtime.ART)))
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.load(),
        text_encoder=text_encoder.load(tokenizer),
        tokenizer=tokenizer,
        unet=unet.load(),
        scheduler=unet.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    _drop(folder / "vae/config.json", "block_out_channels")  # diffusers writes it, then warns of it when loading
    shutil.copy(CARD, folder / "README.md")
    shutil.copy(LICENCE, folder)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _drop(config: Path, key: str) -> None:
    fields = json.loads(config.read_text())
    fields.pop(key, None)
    config.write_text(json.dumps(fields, indent=2) + "\n")


def load(folder: Path = WEIGHTS) -> StableDiffusionPipeline:
    """The pipeline in a folder, in float32, as Darkroom loads it on a CPU."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    folder = parser.parse_args().folder
    size = export(folder)
    print(f"{folder}: {size / 1e6:.1f} MB")
    if size > LIMIT:
        raise SystemExit(f"{folder} is over {LIMIT / 1e6:.0f} MB")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)


if __name__ == "__main__":
    main()
