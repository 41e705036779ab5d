"""Checkpoints: the averaged weights of all networks in a few files, each small enough to travel.

Knows files and the networks' names; knows nothing of training. The files are written beside the old ones and take their
place together, so that a run that is cut leaves one checkpoint or the other.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .nets.autoencoder import Autoencoder, AutoencoderShape
from .nets.text_encoder import TextEncoder, TextEncoderShape
from .nets.unet import UNet, UNetShape
from .nets.upscaler import Upscaler, UpscalerShape

MAX_PIECE = 15_500_000  # bytes of tensors in one file
Shape = AutoencoderShape | TextEncoderShape | UNetShape | UpscalerShape
KINDS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "autoencoder": (AutoencoderShape, Autoencoder),
    "text_encoder": (TextEncoderShape, TextEncoder),
    "unet": (UNetShape, UNet),
    "upscaler": (UpscalerShape, Upscaler),
}


@dataclass
class Checkpoint:
    """The weights of some networks, what builds them, and how many samples each has learnt from."""

    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    vocabulary: list[str] = field(default_factory=list)  # the tokens of the text encoder's table, in its order

    def net(self, name: str) -> nn.Module:
        """One of the networks, with its weights, in float32."""
        net = build(name, self.shapes[name])
        net.load_state_dict({key: weight.float() for key, weight in self.weights[name].items()})
        return net.eval()


def build(name: str, shape: Shape) -> nn.Module:
    """A network with random weights."""
    return KINDS[name][1](shape)


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint in the folder."""
    return bool(_pieces(folder))


def save(folder: Path, checkpoint: Checkpoint) -> int:
    """Write the checkpoint over the last one, in half precision; returns its size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, weights in checkpoint.weights.items():
        for key, weight in weights.items():
            small = weight.detach().half().cpu().contiguous()
            if size + small.nbytes > MAX_PIECE and pieces[-1]:
                pieces.append({})
                size = 0
            pieces[-1][f"{name}/{key}"] = small
            size += small.nbytes
    about = {
        "shapes": {name: asdict(shape) for name, shape in checkpoint.shapes.items()},
        "seen": checkpoint.seen,
        "vocabulary": checkpoint.vocabulary,
    }
    one_save = str(sum(checkpoint.seen.values()))
    metadata = {"pieces": str(len(pieces)), "save": one_save, "about": json.dumps(about, ensure_ascii=False)}
    old, written = set(_pieces(folder)), []
    for number, piece in enumerate(pieces):
        path = folder / f"weights-{number}.safetensors"
        part = path.with_suffix(".part")
        save_file(piece, part, metadata if number == 0 else {"pieces": metadata["pieces"], "save": one_save})
        written.append((part, path))
    for part, path in written:
        part.chmod(0o644)
        part.replace(path)
    for path in old - {path for _, path in written}:
        path.unlink()
    return sum(path.stat().st_size for _, path in written)


def load(folder: Path) -> Checkpoint:
    """The checkpoint in a folder; ValueError if its files are not of one save."""
    weights: dict[str, dict[str, Tensor]] = {}
    about: dict[str, Any] = {}
    saves, wanted = set(), "0"
    paths = _pieces(folder)
    for path in paths:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata()
            saves.add(metadata["save"])
            wanted = metadata["pieces"]
            about = json.loads(metadata["about"]) if "about" in metadata else about
            for key in opened.keys():  # noqa: SIM118
                name, _, rest = key.partition("/")
                weights.setdefault(name, {})[rest] = opened.get_tensor(key)
    if len(saves) != 1 or str(len(paths)) != wanted or not about:
        raise ValueError(f"{folder}: {len(paths)} files of {len(saves)} saves are not one checkpoint of {wanted} files")
    shapes = {name: _shape(name, fields) for name, fields in about["shapes"].items()}
    return Checkpoint(weights, shapes, about["seen"], about["vocabulary"])


def _shape(name: str, fields: dict[str, Any]) -> Shape:
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    made: Shape = KINDS[name][0](**given)
    return made


def _pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("weights-*.safetensors"))
