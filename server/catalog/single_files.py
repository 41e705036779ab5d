"""The single files of models.yaml: checkpoints, transformers and VAEs beside folders.

Knows keys and paths, and what a file's header tells; knows neither HTTP nor torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, model_files
from pipelines.facts.checkpoint import ARCHITECTURES, Kind
from pipelines.plan import ModelPlan
from server.catalog.entries import ID, ModelEntry, ModelsFile
from server.catalog.watch import file_stamp, weights_in

MAX_FOUND = 500  # checkpoints of a folder
_SD21_SIDE = 768  # SD 2.1-base, which predicts noise, draws 512


class Clash(ValueError):
    """A key that cannot be had with others."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints that lie in a folder: those that are models, by the stems of their files, and the others."""

    path: Path  # absolute
    found: dict[str, ModelEntry]
    refused: dict[str, str]  # why not, by the name of the file or of the folder


def read_folder(path: Path, file: ModelsFile) -> CheckpointFolder:
    """The checkpoints of a folder now. A file that is still being copied is refused, and looked at again when it has
    changed. One that the rest of models.yaml needs is a model whatever it is: its ``problem`` says what is wrong."""
    found: dict[str, ModelEntry] = {}
    refused: dict[str, str] = {}
    taken = {name: model_id for model_id, entry in file.models.items() for name in (model_id, *entry.aliases)}
    needed = {file.default, *(entry.like for entry in file.models.values())}
    if not path.is_dir():
        refused["checkpoints"] = "the folder does not exist, or is none"
    for weights in weights_in(path):
        if not ID.fullmatch(weights.stem):
            refused[weights.name] = "its name has more than letters, digits and . _ : -, so no request may say it"
        elif weights.stem in taken:
            refused[weights.name] = f"{weights.stem} already stands for {taken[weights.stem]}; rename the file"
        elif (problem := _problem(weights)) is not None and weights.stem not in needed:
            refused[weights.name] = problem
        elif len(found) == MAX_FOUND:
            refused[weights.name] = f"the folder has more than {MAX_FOUND} checkpoints"
        else:
            found[weights.stem] = ModelEntry(checkpoint=str(weights))
    return CheckpointFolder(path, found, refused)


def _problem(weights: Path) -> str | None:
    try:
        told = checkpoint.checkpoint(weights)
    except LoadRefused as refusal:
        return str(refusal)
    except OSError as error:
        return f"{weights.name} cannot be read: {error.strerror}"
    if told.base is None:
        return f"{weights.name} is of no base that is known: name it under models, with config"
    if told.kind is Kind.ALL_IN_ONE:  # FLUX.1 needs a tokenizer beside it, which this folder has no place for
        lacking = model_files.problem(
            ModelPlan(weights.stem, str(ARCHITECTURES / told.base), "other", checkpoint=str(weights))
        )
        return None if lacking is None else f"{lacking}; what needs more files stands under models"
    return None


def absolute(folder: Path, path: str | None) -> str | None:
    """The path of a file, relative to ``folder``, made whole. Links are not followed: in a hub's cache the link has the
    file's name, and its target that of a hash."""
    return None if path is None else str((folder / path).absolute())


def revision(plan: ModelPlan) -> str:
    """A text that changes with a plan's single files: what has been put in the place of one is other weights."""
    files = (*plan.single_files, *(file.path for file in plan.embeddings))
    stamps = (file_stamp(Path(each)) for each in files)
    return " ".join("-" if stamp is None else f"{stamp[0]}:{stamp[1]}" for stamp in stamps)


def folder_of(entry: ModelEntry, folder: Path) -> Path:
    """The folder of an entry's weights, or of its checkpoint's configurations: the entry's own, or ours for the base
    that the file's header tells. Where that cannot be told, it is a folder without any."""
    if entry.path is not None or entry.config is not None:
        own = entry.path if entry.config is None else entry.config
        return Path(os.path.realpath(folder / (own or "")))  # unlike resolve, it raises for no loop of links
    base: str | None = entry.base
    if base is None:
        try:
            base = checkpoint.tell(folder / (entry.checkpoint or entry.transformer or "")).base
        except (LoadRefused, OSError):  # told by whoever asks for the model's problem
            base = None
    return ARCHITECTURES / (base or "")


def native_side(entry: ModelEntry, configurations: Path) -> int | None:
    """The side that a checkpoint draws best, in pixels, where that is not its family's; else None."""
    is_768 = configurations == ARCHITECTURES / "sd21" and entry.prediction != "epsilon"
    return _SD21_SIDE if entry.checkpoint is not None and is_768 else None


def refuse_clash(entry: ModelEntry) -> None:
    """Raise Clash for a key that cannot be had together with a GGUF file."""
    if entry.transformer is None or not entry.transformer.endswith(".gguf"):
        return
    for key in ("quantise", "fuse_qkv", "compile"):
        if getattr(entry, key):
            why = "cannot be had with a GGUF transformer, whose weights are quantised in a form of their own"
            raise Clash(key, why)
