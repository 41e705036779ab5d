"""From a checkpoint to a folder that stock diffusers loads, in half precision, the upscaler beside it.

Knows the folder's form, its size limit and its model card; knows nothing of training.
"""

import argparse
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import checkpoint, codes, runtime
from .checkpoint import Checkpoint
from .resume import upscaler_of
from .samples.archive import Archive
from .sampling import SCHEDULER

WEIGHTS = runtime.BUILD / "darkroom-mini"  # weights/darkroom-mini ships; `ship` writes a better one there
CARD = Path(__file__).parent / "data/model_card.md"
LICENCE = Path(__file__).parent / "data/LICENSE-fluent-emoji"
LIMIT = 36_000_000  # bytes, of everything
NEEDED = ("autoencoder", "text_encoder", "unet")


def export(kept: Checkpoint, archive: Archive, folder: Path = WEIGHTS) -> int:
    """Write the folder and the upscaler, if there is one; returns their size in bytes."""
    if missing := [name for name in NEEDED if name not in kept.weights]:
        raise ValueError(f"the checkpoint has no {missing[0]}")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderTiny(**kept.shapes["autoencoder"].config()),
        text_encoder=CLIPTextModel(CLIPTextConfig(**kept.shapes["text_encoder"].config())),
        tokenizer=_tokenizer(archive),
        unet=UNet2DConditionModel(**kept.shapes["unet"].config()),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for name, net in zip(NEEDED, (pipeline.vae, pipeline.text_encoder, pipeline.unet), strict=True):
        net.load_state_dict(kept.weights[name])
        net.half()
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    _drop(folder / "vae/config.json", "block_out_channels")  # diffusers writes it, then warns of it when loading
    shutil.copy(CARD, folder / "README.md")
    shutil.copy(LICENCE, folder)
    written = [path for path in folder.rglob("*") if path.is_file()]
    if "upscaler" in kept.weights:
        path = upscaler_of(folder)
        weights = {key: weight.half().contiguous() for key, weight in kept.weights["upscaler"].items()}
        save_file(weights, path, {k: str(v) for k, v in kept.shapes["upscaler"].config().items()})
        written.append(path)
    for path in written:
        if path.suffix == ".safetensors":
            path.chmod(0o644)
    return sum(path.stat().st_size for path in written)


def _tokenizer(archive: Archive) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in archive.tokenizer.items():
            (Path(folder) / name).write_bytes(content)
        return CLIPTokenizer.from_pretrained(folder, model_max_length=codes.LENGTH, local_files_only=True)


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
    parser = argparse.ArgumentParser(prog="training.export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the folder that training.train wrote")
    parser.add_argument("--art", type=Path, default=runtime.BUILD / "art.zip", help="for the tokenizer")
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    size = export(checkpoint.load(options.checkpoint), Archive.open(options.art), options.folder)
    print(f"{options.folder}: {size / 1e6:.1f} MB")
    if size > LIMIT:
        raise SystemExit(f"{options.folder} is over {LIMIT / 1e6:.0f} MB")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(options.folder)


if __name__ == "__main__":
    main()
