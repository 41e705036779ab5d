"""Where a training goes on from: a checkpoint, or a folder that stock diffusers loads, such as the one that ships.

Knows both forms and which weights fit; knows nothing of training. A weight is taken where its name and its shape agree,
a row of the text encoder's table where its token does. What is not taken is told.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from . import checkpoint, codes
from .checkpoint import Checkpoint

SHIPPED = Path(__file__).resolve().parent.parent / "weights/darkroom-mini"
SEEN = Path(__file__).parent / "data/seen.json"  # samples that each of the networks that ship has learnt from
FILES = {
    "autoencoder": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
}
TABLE = "embeddings.token_embedding.weight"


def read(folder: Path) -> Checkpoint:
    """The weights in a folder of either form; FileNotFoundError if there are none."""
    if checkpoint.exists(folder):
        return checkpoint.load(folder)
    if not (folder / "model_index.json").exists():
        raise FileNotFoundError(f"{folder}: neither a checkpoint nor a folder of diffusers")
    weights = {name: load_file(folder / file) for name, file in FILES.items() if (folder / file).exists()}
    upscaler = upscaler_of(folder)
    if upscaler.exists():
        weights["upscaler"] = load_file(upscaler)
    if "text_encoder" in weights:
        weights["text_encoder"] = {k.removeprefix("text_model."): v for k, v in weights["text_encoder"].items()}
    tokenizer = (folder / "tokenizer/tokenizer.json").read_bytes()
    seen = json.loads(SEEN.read_text(encoding="utf-8")) if folder.resolve() == SHIPPED else {}
    return Checkpoint(weights, {}, {name: int(seen.get(name, 0)) for name in weights}, vocabulary(tokenizer))


def upscaler_of(folder: Path) -> Path:
    """Where the upscaler of a folder's model lies: beside it."""
    return folder.with_name(f"{folder.name}-x2.safetensors")


def vocabulary(tokenizer: bytes) -> list[str]:
    """The tokens of a tokenizer.json, in the order of their ids."""
    fields = json.loads(tokenizer)
    table: dict[str, int] = {**fields["model"]["vocab"], **{t["content"]: t["id"] for t in fields["added_tokens"]}}
    return sorted(table, key=lambda token: table[token])


@dataclass(frozen=True)
class Taken:
    """What a network got from given weights."""

    weights: int
    of: int
    left: tuple[str, ...]  # names of its weights that were not given, or in another shape

    def told(self, name: str) -> str:
        """One line."""
        shown = ", ".join(self.left[:6]) + (", …" if len(self.left) > 6 else "")
        return f"{name}: {self.weights} of {self.of} weights taken" + (f"; begin anew: {shown}" if shown else "")


@torch.no_grad()
def take(net: nn.Module, given: dict[str, Tensor], old: list[str], new: list[str]) -> Taken:
    """Copy into ``net`` what fits; ``old`` and ``new`` are the tokens of the given and of the network's vocabulary."""
    own, left = net.state_dict(), []
    for key, weight in own.items():
        found = given.get(key)
        if key == TABLE and found is not None and len(found) == len(old) and found.shape[1:] == weight.shape[1:]:
            rows = {token: n for n, token in enumerate(old)}
            known = [(n, rows[token]) for n, token in enumerate(new) if token in rows]
            at, of = (torch.tensor(column, dtype=torch.long) for column in zip(*known, strict=True))
            weight[at] = found[of].float()
            if len(known) < len(new):
                left.append(f"{len(new) - len(known)} rows of {key}")
        elif found is None or found.shape != weight.shape:
            left.append(key if found is None else f"{key} {tuple(found.shape)} for {tuple(weight.shape)}")
        else:
            weight.copy_(found)
    return Taken(len(own) - len([name for name in left if " rows of " not in name]), len(own), tuple(left))


@torch.no_grad()
def forget_colours(unet: nn.Module) -> None:
    """Keep a UNet that has learnt no colours from reacting to them: their directions were empty when it learnt.

    What its keys and values make of empty directions is whatever they began with.
    """
    at = slice(codes.PART_COLOUR, codes.PART_COLOUR + codes.COLOUR)
    empty = torch.cat((codes.basis()[at], codes.basis()[codes.COLOURED : codes.COLOURED + codes.COLOUR]))
    for name, weight in unet.named_parameters():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weight.sub_(weight @ empty.T @ empty)
