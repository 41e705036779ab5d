"""Where a training goes on from when there are no checkpoints: the weights that ship.

Knows their folder and what its networks are called in a checkpoint; knows nothing of training. The weights are in half
precision and without optimizer state: the EMA starts anew, and the learning rate rises again from near zero.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from . import autoencoder, runtime, text_encoder, tokens, unet

FOLDER = runtime.ROOT / "weights/darkroom-mini"
SEEN = Path(__file__).parent / "data/seen.json"  # samples that each of its networks has learnt from


def resume() -> None:
    """Make the checkpoints that are missing from the weights in `FOLDER`; leave those that are there alone."""
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
