"""The upscalers of models.yaml: what may be written there, which files are wrong, and what stands for none.

Knows names and files; knows neither HTTP nor torch. What a network makes of a picture is the worker's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from pipelines.facts import upscaler as facts
from pipelines.facts.upscaler import UpscalerShape
from pipelines.plan import UPSCALER, ModelPlan, UpscalerFile
from pipelines.spec import LANCZOS
from server.catalog.watch import file_stamp

MAX_FACTOR: Final = 8.0  # by which a request may have a picture enlarged
_RESERVED: Final = frozenset({LANCZOS, "nearest", "none"})  # what other programs call resampling, and nothing at all
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", re.ASCII)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name has letters, digits and . _ + - only")
    if name.lower() in _RESERVED:
        raise ValueError("stands for resampling without a network; take another name")
    return name


UpscalerName = Annotated[str, AfterValidator(_check_name)]
Upscalers = dict[UpscalerName, Annotated[str, Field(min_length=1)]]


@dataclass(frozen=True)
class Upscaler:
    """One that requests may name, with everything decided."""

    file: UpscalerFile
    shape: UpscalerShape | None  # None: it cannot be used
    problem: str | None  # why not

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def plan(self) -> ModelPlan:
        """Of the network by itself."""
        return plan_of(self.file.name, (self.file,), self.file.revision)


def plan_of(name: str, files: tuple[UpscalerFile, ...], revision: str = "") -> ModelPlan:
    """The plan of an upscaler by itself; without files, of resampling. Its key has a blank, which no ID has."""
    return ModelPlan(f"{UPSCALER} {name}", files[0].path if files else "", UPSCALER, upscalers=files, revision=revision)


def read(folder: Path, written: Mapping[str, str]) -> dict[str, Upscaler]:
    """Those of the file's own mapping. Paths are relative to ``folder``."""
    found = {}
    for name, path in written.items():
        file = _file(folder, name, path)
        problem = facts.problem(Path(file.path))
        found[name] = Upscaler(file, facts.tell(Path(file.path)) if problem is None else None, problem)
    return found


def of_model(folder: Path, written: str | None, known: Mapping[str, Upscaler]) -> UpscalerFile | None:
    """The one that a model's entry names: one of ``known``, or a file; None where it names none, or Lanczos."""
    if written is None or written.lower() == LANCZOS:
        return None
    if written in known:
        return known[written].file
    return _file(folder, Path(written).stem, written)


def together(files: Iterable[UpscalerFile | None]) -> tuple[UpscalerFile, ...]:
    """Those of all IDs that share weights, by name. Raises ValueError for one name of two files."""
    found: dict[str, UpscalerFile] = {}
    for file in files:
        if file is not None and found.setdefault(file.name, file) != file:
            raise ValueError(f"{file.name} is {found[file.name].path} under another ID that shares these weights")
    return tuple(found[name] for name in sorted(found))


def _file(folder: Path, name: str, path: str) -> UpscalerFile:
    whole = (folder / path).absolute()
    stamp = file_stamp(whole)
    return UpscalerFile(name, str(whole), "-" if stamp is None else f"{stamp[0]}:{stamp[1]}")
