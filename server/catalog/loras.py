"""The ``loras`` of models.yaml: what may be written there, what clients may name, which files are wrong.

Knows names, weights and files; knows neither HTTP nor torch. What an adapter does to a picture is the worker's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.facts import folder
from pipelines.plan import AdapterFile
from server.catalog.watch import weights_in

MAX_WEIGHT = 4.0
MAX_FOUND = 100  # adapters of a folder
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


def files(entries: Mapping[str, LoraEntry], base: Path) -> tuple[AdapterFile, ...]:
    """The files of these adapters, by name, with paths relative to ``base`` made whole.

    Links are not followed: in a hub's cache the link has the file's name, and its target that of a hash.
    """
    return tuple(AdapterFile(name, str((base / entry.path).absolute())) for name, entry in sorted(entries.items()))


@dataclass(frozen=True)
class LoraFolder:
    """The adapters that lie in a folder: those that may be named, by the stems of their files, and the others."""

    path: Path  # absolute
    found: dict[str, LoraEntry]  # whole: their size is what their header says
    refused: dict[str, str]  # why not, by the name of the file or of the folder


def read_folder(path: Path, listed: Collection[str]) -> LoraFolder:
    """The adapters of a folder now; ``listed`` are the names that ``loras`` has. A file that is still being copied is
    refused, and looked at again when it has changed."""
    found: dict[str, LoraEntry] = {}
    refused: dict[str, str] = {}
    if not path.is_dir():
        refused["lora_folder"] = "the folder does not exist, or is none"
    for file in weights_in(path):
        if not _NAME.fullmatch(file.stem):
            refused[file.name] = "its name has more than letters, digits and . _ -, so no request may say it"
        elif file.stem in listed:
            refused[file.name] = f"loras has the name {file.stem} too; rename the file"
        elif (problem := folder.adapter_problem(file)) is not None:
            refused[file.name] = problem
        elif len(found) == MAX_FOUND:
            refused[file.name] = f"the folder has more than {MAX_FOUND} adapters, and all are loaded with the model"
        else:
            found[file.stem] = LoraEntry(path=str(file))
    return LoraFolder(path, found, refused)


def together(sets: Iterable[tuple[AdapterFile, ...]]) -> tuple[AdapterFile, ...]:
    """The adapters of all IDs that share weights. Raises ValueError for a name that stands for two files."""
    by_name: dict[str, AdapterFile] = {}
    for file in (file for files in sets for file in files):
        if os.path.realpath(by_name.setdefault(file.name, file).path) != os.path.realpath(file.path):
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
