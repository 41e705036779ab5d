"""The header of a safetensors file: names, dtypes, shapes and places of its tensors, told without reading any of them.

Knows the format: 8 bytes of little-endian length, then JSON, then the data to the end of the file. Knows no models.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import LoadRefused

MAX_HEADER_BYTES = 100 * 1000 * 1000  # the limit of the safetensors library itself
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how they begin
_METADATA = "__metadata__"
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
}


@dataclass(frozen=True)
class Stored:
    """A tensor as its file describes it."""

    dtype: str  # as the format spells it: F32, BF16, F8_E4M3, I8 …
    shape: tuple[int, ...]
    size: int  # bytes

    @property
    def is_float8(self) -> bool:
        """Is each element a float of eight bits?"""
        return self.dtype.startswith("F8_")

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: Mapping[str, Stored]
    file_size: int  # bytes
    metadata: Mapping[str, str] = field(default_factory=dict)  # what its writer said of it; anything


def read(path: Path) -> Header:
    """Compare a safetensors header with its file, and return it. Raises LoadRefused, naming the file."""
    where = f"{path.parent.name}/{path.name}"
    refuse_pointer(path, where)
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            if prefix.startswith(_PICKLES):
                raise LoadRefused(f"{where} is not a safetensors file but a pickle, which can run code")
            raise LoadRefused(f"{where} is not a safetensors file, or is truncated")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise LoadRefused(f"{where} has a damaged header") from error
    if not isinstance(header, dict):
        raise LoadRefused(f"{where} has a damaged header")
    metadata = header.pop(_METADATA, None)
    tensors: dict[str, Stored] = {}
    places = []
    for key, value in header.items():
        tensors[key], place = _stored(value, where)
        places.append(place)
    places.sort()
    if max((stop for _, stop in places), default=0) != size - 8 - length:
        raise LoadRefused(f"{where} is truncated or longer than its header says")
    # As the library has it, which would not open such a file.
    if any(start != before for (start, _), before in zip(places, (0, *(stop for _, stop in places)), strict=False)):
        raise LoadRefused(f"{where} has a damaged header: its tensors overlap, or leave gaps between them")
    for key, tensor in tensors.items():
        if tensor.dtype in _BITS and tensor.elements * _BITS[tensor.dtype] != tensor.size * 8:
            raise LoadRefused(f"{where} has a damaged header: {key[:80]!r} is not as large as its shape says")
    said = metadata.items() if isinstance(metadata, dict) else ()
    return Header(tensors, size, {key: value for key, value in said if isinstance(value, str)})


def _stored(tensor: Any, where: str) -> tuple[Stored, tuple[int, int]]:
    """A tensor of a header, and where its data begins and ends."""
    try:
        start, stop = tensor["data_offsets"]
        dtype, shape = tensor["dtype"], tensor["shape"]
        whole = [start, stop, *shape]
    except (TypeError, KeyError, ValueError) as error:
        raise LoadRefused(f"{where} has a damaged header") from error
    if not (isinstance(dtype, str) and all(type(number) is int and number >= 0 for number in whole) and start <= stop):
        raise LoadRefused(f"{where} has a damaged header")
    return Stored(dtype, tuple(shape), stop - start), (start, stop)


def refuse_pointer(path: Path, where: str) -> None:
    """Raise LoadRefused for a file that is what Git LFS leaves in the place of one that was not fetched."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise LoadRefused(
                f"{where} is not a safetensors file, or any other, but what Git LFS left in its place: run git lfs pull"
            )
