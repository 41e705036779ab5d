"""What a super-resolution file is, told from its header alone: which network, how large, by how much it enlarges.

Knows the two networks of Real-ESRGAN and the names that it gives their tensors (github.com/xinntao/Real-ESRGAN, BSD
3-Clause): RRDBNet (RealESRGAN_x4plus, x2plus, x4plus_anime_6B) and SRVGGNetCompact (realesr-general-x4v3,
realesr-animevideov3). Reads no tensor, imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isqrt
from pathlib import Path

from pipelines.errors import LoadRefused
from pipelines.facts import headers, seal
from pipelines.facts.headers import Stored

MAX_SCALE = 8  # of one pass

_COLOURS = 3
_RRDB_SCALE = 4  # of RRDBNet, on what it works on: two doublings
_DENSE_CONVS = 5  # of a residual dense block
_RRDB_OVERLAP = 16  # pixels: its 345 convolutions see further, but what lies there weighs nothing (docs/models.md)
_PREFIXES = ("params_ema.", "params.")  # of files that were converted with their outer dictionary
_FLOATS = frozenset({"F32", "F16", "BF16"})
_BLOCK = re.compile(r"body\.(\d+)\.")
_OLD = re.compile(r"(model\.1\.sub\.0\.RDB1|RRDB_trunk\.0\.RDB1)\.")


class Network(StrEnum):
    """Which of the two it is."""

    RRDB = "RRDBNet"
    COMPACT = "SRVGGNetCompact"


@dataclass(frozen=True)
class UpscalerShape:
    """What a network's layers follow from."""

    network: Network
    scale: int  # of one pass
    width: int  # channels between its blocks
    depth: int  # blocks of RRDBNet; convolutions of SRVGGNetCompact between the first and the last
    growth: int = 0  # channels that each convolution of a dense block adds; RRDBNet only

    @property
    def unshuffle(self) -> int:
        """The side of the squares of pixels that RRDBNet takes as channels, to work on a smaller picture."""
        return _RRDB_SCALE // self.scale if self.network is Network.RRDB else 1

    @property
    def overlap(self) -> int:
        """Pixels of its surroundings that a part of a picture needs to come out as in the whole."""
        return _RRDB_OVERLAP if self.network is Network.RRDB else self.depth + 2

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The name and the shape of each tensor that its file must have."""
        return self._rrdb() if self.network is Network.RRDB else self._compact()

    def _compact(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for number in range(self.depth + 1):
            yield from _conv(f"body.{2 * number}", self.width if number else _COLOURS, self.width)
            yield f"body.{2 * number + 1}.weight", (self.width,)
        yield from _conv(f"body.{2 * self.depth + 2}", self.width, _COLOURS * self.scale**2)

    def _rrdb(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from _conv("conv_first", _COLOURS * self.unshuffle**2, self.width)
        for block in range(self.depth):
            for dense in (1, 2, 3):
                for number in range(_DENSE_CONVS):
                    out = self.width if number == _DENSE_CONVS - 1 else self.growth
                    name = f"body.{block}.rdb{dense}.conv{number + 1}"
                    yield from _conv(name, self.width + number * self.growth, out)
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            yield from _conv(name, self.width, self.width)
        yield from _conv("conv_last", self.width, _COLOURS)

    def __str__(self) -> str:
        parts = "blocks" if self.network is Network.RRDB else "convolutions"
        return f"{self.network} ×{self.scale}, {self.width} channels, {self.depth} {parts}"


def _conv(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs, 3, 3)
    yield f"{name}.bias", (outputs,)


def tell(path: Path) -> UpscalerShape:
    """The network of a file. Raises LoadRefused, with what to do, for a file that is none."""
    return _tell(path, read(path))


def read(path: Path) -> dict[str, Stored]:
    """The tensors of a super-resolution file, by their names in it. Raises LoadRefused for no safetensors file."""
    if not path.suffix and not path.exists():
        raise LoadRefused(f"{path.name} is none of the names under upscalers, and no .safetensors file")
    if path.suffix != ".safetensors":
        raise LoadRefused(
            f"{path.name} is not a .safetensors file: .pth and .pt files are pickles, which can run code, and are not"
            " loaded. Convert it on another machine (docs/models.md, Upscalers)"
        )
    if path.is_dir():
        raise LoadRefused(f"{path.name} is a folder, not a file")
    if not path.is_file():
        raise LoadRefused(f"{path.name} {'is a link to nothing' if path.is_symlink() else 'does not exist'}")
    return dict(headers.read(path).tensors)


def prefix_of(names: Mapping[str, object]) -> str:
    """What stands before every name of a file; empty for most."""
    return next((prefix for prefix in _PREFIXES if names and all(name.startswith(prefix) for name in names)), "")


def weight_bytes(path: Path, itemsize: int) -> int:
    """Bytes that its weights take with so many for each number. Raises LoadRefused."""
    return sum(stored.elements for stored in read(path).values()) * itemsize


def problem(path: Path, *, with_seal: bool = True) -> str | None:
    """Why a file is no upscaler that can be used; None if it is one. With ``with_seal``, one that has a seal must be as
    it was sealed."""
    try:
        tell(path)
        if with_seal:
            seal.compare(path.parent, (path.name,), seal.name_for(path.name))
    except LoadRefused as refusal:
        return str(refusal)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None


def _tell(path: Path, stored: Mapping[str, Stored]) -> UpscalerShape:
    prefix = prefix_of(stored)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
    shape = _shape(path, tensors)
    wanted = dict(shape.tensors())
    for name, dimensions in wanted.items():
        if name not in tensors:
            raise LoadRefused(f"{path.name} seems to be {shape}, but {name} is missing: fetch it anew")
        if tensors[name].shape != dimensions:
            raise LoadRefused(f"{path.name} seems to be {shape}, but {name} has another shape than that network's")
        if tensors[name].dtype not in _FLOATS:
            raise LoadRefused(f"{path.name}: {name} is stored as {tensors[name].dtype}; F32, F16 and BF16 are read")
    beside = sorted(tensors.keys() - wanted.keys())
    if beside:
        raise LoadRefused(f"{path.name} seems to be {shape}, but has {beside[0][:80]} beside it")
    return shape


def _shape(path: Path, tensors: Mapping[str, Stored]) -> UpscalerShape:
    """What the names and a few shapes say; whether all else agrees is not looked at."""
    first = _conv_shape(tensors, "conv_first.weight")
    dense = _conv_shape(tensors, "body.0.rdb1.conv1.weight")
    if first is not None and dense is not None:
        scale = {_COLOURS: 4, _COLOURS * 4: 2}.get(first[1])
        if scale is None:
            raise LoadRefused(f"{path.name} is an RRDBNet for {first[1]} channels; those for 3 (×4) and 12 (×2) fit")
        return UpscalerShape(Network.RRDB, scale, first[0], _blocks(tensors), dense[0])
    first = _conv_shape(tensors, "body.0.weight")
    if first is not None and "conv_first.weight" not in tensors and first[1] == _COLOURS:
        if "body.1.weight" not in tensors:
            raise LoadRefused(
                f"{path.name} is an SRVGGNetCompact without PReLU: nothing tells what stands in its place"
            )
        last = _blocks(tensors) - 1
        outputs = _conv_shape(tensors, f"body.{last}.weight")
        scale = 0 if outputs is None else isqrt(outputs[0] // _COLOURS)
        if outputs is None or scale**2 * _COLOURS != outputs[0] or not 2 <= scale <= MAX_SCALE:
            raise LoadRefused(f"{path.name} is an SRVGGNetCompact that does not enlarge by 2 to {MAX_SCALE}")
        return UpscalerShape(Network.COMPACT, scale, first[0], last // 2 - 1)
    if any(_OLD.match(name) for name in tensors):
        raise LoadRefused(
            f"{path.name} is an ESRGAN in an older layout, which is not read: take a file in Real-ESRGAN's"
        )
    raise LoadRefused(
        f"{path.name} is no upscaler that is known here: RRDBNet and SRVGGNetCompact of Real-ESRGAN are, in"
        " their original names"
    )


def _conv_shape(tensors: Mapping[str, Stored], name: str) -> tuple[int, ...] | None:
    stored = tensors.get(name)
    return stored.shape if stored is not None and len(stored.shape) == 4 else None


def _blocks(tensors: Mapping[str, Stored]) -> int:
    return 1 + max(int(found[1]) for found in map(_BLOCK.match, tensors) if found is not None)
