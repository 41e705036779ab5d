"""The header of a GGUF file: names, types, shapes and places of its tensors, told without reading any of them.

Knows the format, versions 2 and 3, little-endian; knows no models and needs no package. Every count is checked before
it is believed: the reader of the package gguf trusts them all.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from pipelines.errors import LoadRefused
from pipelines.facts.headers import Header, Stored, refuse_pointer

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_HEADER_BYTES = 32 * 1024 * 1024  # of one that brings a vocabulary of its own
_MAX_TENSORS = 1_000_000
_MAX_NAME_BYTES = 1024
_MAX_DIMENSIONS = 4
_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
# Type → its name, elements and bytes of a block; those alone that diffusers dequantises.
_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
_OTHER_TYPES = {
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 29: "IQ1_M"},
    **{9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 34: "TQ1_0", 35: "TQ2_0"},
}
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value
_STRING, _ARRAY, _UINT32 = 8, 9, 4


def read(path: Path) -> Header:
    """Compare a GGUF header with its file, and return it. Raises LoadRefused, naming the file."""
    where = f"{path.parent.name}/{path.name}"
    refuse_pointer(path, where)
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            return _Reader(file, min(size, _MAX_HEADER_BYTES), where).header(size)
        except struct.error as error:
            raise LoadRefused(f"{where} is truncated") from error


class _Reader:
    """Reads a header from its beginning, within bounds."""

    def __init__(self, file: BinaryIO, limit: int, where: str) -> None:
        self._file = file
        self._left = limit
        self._where = where

    def header(self, size: int) -> Header:
        if self._bytes(4) != _MAGIC:
            raise LoadRefused(f"{self._where} is not a GGUF file")
        version, count, pairs = self._unpack("<IQQ")
        if version not in _VERSIONS:
            raise LoadRefused(f"{self._where} is a GGUF file of version {version}; 2 and 3 are read")
        if count > min(_MAX_TENSORS, self._left) or pairs > self._left:
            raise self._damaged("it counts more than it can have")
        metadata: dict[str, str] = {}
        alignment = _ALIGNMENT
        for _ in range(pairs):
            key, kind = self._string(self._left).decode("utf-8", "replace"), self._unpack("<I")[0]
            if key == "general.alignment" and kind == _UINT32:
                alignment = self._unpack("<I")[0]
            elif key.startswith("general.") and kind == _STRING:
                metadata[key] = self._string(self._left).decode("utf-8", "replace")
            else:
                self._skip_value(kind)
        if not 1 <= alignment <= _MAX_ALIGNMENT:
            raise self._damaged("its alignment cannot be")
        found = [self._tensor() for _ in range(count)]
        data = math.ceil(self._file.tell() / alignment) * alignment
        tensors: dict[str, Stored] = {}
        for name, stored, offset in found:
            if name in tensors or offset + stored.size > size - data:
                raise LoadRefused(f"{self._where} is truncated, or has a damaged header: {name[:80]!r}")
            tensors[name] = stored
        return Header(tensors, size, metadata)

    def _tensor(self) -> tuple[str, Stored, int]:
        try:
            name = self._string(_MAX_NAME_BYTES).decode("utf-8")
        except ValueError as error:
            raise self._damaged("a name is not text") from error
        (dimensions,) = self._unpack("<I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._damaged(f"{name[:80]!r} has {dimensions} dimensions")
        shape = self._unpack(f"<{dimensions}Q")[::-1]  # the fastest comes first in the file
        kind, offset = self._unpack("<IQ")
        if kind not in _TYPES:
            said = _OTHER_TYPES.get(kind, f"type {kind}")
            known = ", ".join(each for each, _, _ in _TYPES.values())
            raise LoadRefused(f"{self._where} has {name[:80]!r} in {said}, which is not read; take one of {known}")
        dtype, elements, size = _TYPES[kind]
        if shape[-1] % elements:
            raise self._damaged(f"{name[:80]!r} is not of whole blocks of {dtype}")
        if dtype == "BF16" and dimensions == 1:
            raise LoadRefused(
                f"{self._where} has {name[:80]!r}, a vector, in BF16, which diffusers cannot use: take a file that"
                " has its vectors in F32"
            )
        return name, Stored(dtype, shape, math.prod(shape) // elements * size), offset

    def _skip_value(self, kind: int) -> None:
        if kind == _ARRAY:
            of, count = self._unpack("<IQ")
            if of in _SIZES:
                self._skip(_SIZES[of] * count)
            elif of == _STRING and count <= self._left:
                for _ in range(count):
                    self._skip(self._unpack("<Q")[0])
            else:
                raise self._damaged("an array of what cannot be")
        elif kind == _STRING:
            self._skip(self._unpack("<Q")[0])
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            raise self._damaged(f"a value of type {kind}")

    def _string(self, limit: int) -> bytes:
        (length,) = self._unpack("<Q")
        if length > limit:
            raise self._damaged("a text that is too long")
        return self._bytes(length)

    def _unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))

    def _bytes(self, count: int) -> bytes:
        self._take(count)
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        self._take(count)
        self._file.seek(count, 1)

    def _take(self, count: int) -> None:
        if count > self._left:
            raise LoadRefused(f"{self._where} is truncated, or its header is too large")
        self._left -= count

    def _damaged(self, what: str) -> LoadRefused:
        return LoadRefused(f"{self._where} has a damaged header: {what}")
