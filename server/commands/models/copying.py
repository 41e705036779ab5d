"""``darkroom models import --copy``: a model of single files, written as a folder in diffusers' format.

Knows the order of it: ask what the model is and for room, have it written beside the place, then rename. What writes it
is a process of its own (server/worker/child/conversion.py), as it needs torch.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
from pydantic import ValidationError

from pipelines.errors import LoadRefused
from pipelines.facts import model_files
from pipelines.plan import ModelPlan
from server.catalog import load
from server.catalog.catalog import Model
from server.catalog.entries import ModelEntry
from server.commands import child
from server.commands.byte_progress import bar
from server.commands.failure import CommandFailed

Keys = Mapping[str, str | list[str]]  # of an entry of models.yaml

_CONFIGURATIONS_BYTES = 64 * 1024 * 1024  # and tokenizers: more than any model has


def model(key: str, keys: Keys) -> Model:
    """The model that an entry with these keys would be. Raises CommandFailed."""
    try:
        return load.model_of(Path(), key, key, ModelEntry.model_validate(dict(keys)))
    except ValidationError as error:
        raise CommandFailed(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def copy(key: str, keys: Keys, file: Path, into: str | None) -> Path:
    """Write a model of single files as a folder, which appears whole or not at all. The folder. Raises CommandFailed,
    OSError."""
    target = Path(into or file.with_suffix("")).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CommandFailed(f"{target} is there already: name another folder with --into")
    plan = model(key, keys).plan
    problem = model_files.problem(plan)
    if problem is not None:
        raise CommandFailed(f"not copied: {problem}")
    size = _size(plan)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if size + _CONFIGURATIONS_BYTES > free:
        short = f"{size / 1e9:.1f} GB are to be written, and the disk has {free / 1e9:.1f} GB free"
        raise CommandFailed(f"{target}: {short}; nothing is changed")
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    beside.mkdir()
    try:
        _have_written(plan, beside, size)
        beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"{target}: {sum(path.stat().st_size for path in target.rglob('*') if path.is_file()) / 1e6:.0f} MB written")
    return target


def _size(plan: ModelPlan) -> int:
    """Bytes of the weights as they will be written. Raises CommandFailed for what stays a file."""
    size = 0
    try:
        for part in model_files.parts(plan):
            if part.source is not None and part.source.is_gguf:
                raise CommandFailed(
                    f"not copied: {part.source.path.name} is quantised in a form of its own, which folders do not have:"
                    " name it under transformer"
                )
            scales = {scale.scale for scale in part.scales()}
            for name, tensor in part.tensors().items() if part.weights else ():
                if name not in scales:
                    size += 2 * math.prod(tensor.shape) if tensor.is_float8 else tensor.size
    except LoadRefused as refusal:
        raise CommandFailed(f"not copied: {refusal}") from None
    return size


def _have_written(plan: ModelPlan, folder: Path, size: int) -> None:
    with child.start("server.worker.child.conversion") as writer, bar(plan.key, size) as report:
        for said in writer.answers({"plan": msgspec.to_builtins(plan), "folder": str(folder)}):
            report(said.get("wrote", 0))
            if "problem" in said:
                if said["problem"] is not None:
                    raise CommandFailed(f"not copied: {str(said['problem']).replace(str(folder), folder.name)}")
                return
        words = writer.last_words()
        raise CommandFailed(
            f"not copied: the process that wrote it ended (exit code {writer.returncode})"
            + (f", and it said last:\n{words}" if words else "")
        )
