"""Where a training goes on from when there are no checkpoints: the weights that ship.

Knows their folder and what its networks are called in a checkpoint; knows nothing of training. Half precision and no
optimizer state: the averages start anew, and a course begins with a short rise of the learning rate.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from . import autoencoder, export, runtime, text_encoder, tokens, unet

FOLDER = runtime.ROOT / "weights/darkroom-mini"
SEEN = Path(__file__).parent / "data/seen.json"  # samples that each of its networks has seen


def resume() -> None:
    """Make the checkpoints that are missing from the weights in `FOLDER`; leaves those that are there alone."""
    if not SEEN.exists():
        return
    seen = json.loads(SEEN.read_text(encoding="utf-8"))
    if not (tokens.FOLDER / "tokenizer.json").exists():
        shutil.copytree(FOLDER / "tokenizer", tokens.FOLDER, dirs_exist_ok=True)
    text = _weights(FOLDER / "text_encoder/model.safetensors")
    text = {key.removeprefix("text_model."): tensor for key, tensor in text.items()}
    found = {
        autoencoder.CHECKPOINT: _weights(FOLDER / "vae/diffusion_pytorch_model.safetensors"),
        text_encoder.CHECKPOINT: text,
        text_encoder.READER: text_encoder.reader_of(text),
        unet.CHECKPOINT: _weights(FOLDER / "unet/diffusion_pytorch_model.safetensors"),
    }
    for path, weights in found.items():
        if not path.exists():
            state: dict[str, Any] = {"average": weights, "samples": seen[path.stem]}
            runtime.save(path, state)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return {key: tensor.float() for key, tensor in load_file(path).items()}


def keep() -> None:
    """Ship the checkpoints as they are: write `FOLDER`, and from what a checkout somewhere else goes on."""
    export.export(FOLDER)
    found = (autoencoder.CHECKPOINT, text_encoder.READER, text_encoder.CHECKPOINT, unet.CHECKPOINT)
    seen = {path.stem: runtime.samples_of(path) for path in found}
    SEEN.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    keep()
