"""The ``loras`` of models.yaml: what may be written there, what clients may name, which files are wrong.

Knows names, weights and files; knows neither HTTP nor torch. What an adapter does to a picture is the worker's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.plan import AdapterFile

MAX_WEIGHT = 4.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name has letters, digits and . _ - only")
    return name


LoraName = Annotated[str, AfterValidator(_check_name)]


class LoraEntry(BaseModel):
    """One adapter of a model, as written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str = Field(min_length=1, description="one .safetensors file, relative to models.yaml")
    weight: float = Field(
        1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False, description="for requests that name none"
    )
    description: str = Field("", description="shown in /v1/models")


def files(entries: Mapping[str, LoraEntry], folder: Path) -> tuple[AdapterFile, ...]:
    """The files of these adapters, by name, with paths relative to ``folder`` made whole.

    Links are not followed: in a hub's cache the link has the file's name, and its target that of a hash.
    """
    return tuple(AdapterFile(name, str((folder / entry.path).absolute())) for name, entry in sorted(entries.items()))


def together(sets: Iterable[tuple[AdapterFile, ...]]) -> tuple[AdapterFile, ...]:
    """The adapters of all IDs that share weights. Raises ValueError for a name that stands for two files."""
    by_name: dict[str, AdapterFile] = {}
    for file in (file for files in sets for file in files):
        if Path(by_name.setdefault(file.name, file).path).resolve() != Path(file.path).resolve():
            raise ValueError(f"{file.name} stands for another file with an ID that shares these weights")
    return tuple(by_name[name] for name in sorted(by_name))


def clash(*, compile: bool, fuse_qkv: bool, quantise: str | None) -> str | None:
    """The key of models.yaml that cannot be had together with adapters, and why; None if there is none."""
    if compile:
        return "loras cannot be had with compile: every other set of adapters would compile the denoiser again"
    if fuse_qkv:
        return "loras cannot be had with fuse_qkv: the fused projection would pass the adapters by"
    if quantise == "float8":
        return "loras cannot be had with quantise: float8; int8 and nf4 take adapters"
    return None
