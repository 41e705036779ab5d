"""The models of a bundle: which files go into it, and the models.yaml that names them there.

Knows the catalog, seals and the bundle's own paths. Only sealed models travel, so that what is packed is what their
owner sealed; every byte of them is compared on the way.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.facts import seal, textual_inversion
from server.catalog.catalog import Catalog, Model
from server.catalog.watch import weights_in
from server.commands.failure import CommandFailed


@dataclass
class Contents:
    """Files by their names in the bundle, and the SHA-256 that some of them must have."""

    files: dict[str, Path] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)


def of_models(catalog: Catalog, names: Collection[str]) -> tuple[Contents, str]:
    """What goes into a bundle of the models with these names, and the text of its models.yaml. Raises CommandFailed."""
    chosen = {catalog.resolve(name).id for name in names}
    keys = {catalog.models[each].plan.key for each in chosen}
    chosen |= keys  # who owns the weights is named by those that are like it
    contents = Contents()
    for key in sorted(keys):
        _add_model(contents, catalog.models[key])
    written = yaml.safe_load(catalog.path.read_text(encoding="utf-8"))
    entries = {each: dict(entry) for each, entry in written.get("models", {}).items() if each in chosen}
    for each, entry in entries.items():
        _add_adapters(contents, catalog, each, entry)
        if "path" in entry:
            entry["path"] = f"models/{each}"
    written.pop("checkpoints", None)  # its files are not packed
    default = catalog.default if catalog.default in chosen else next(iter(entries))
    return contents, yaml.safe_dump({**written, "default": default, "models": entries}, sort_keys=False)


def _add_model(contents: Contents, model: Model) -> None:
    for single in (model.plan.checkpoint, model.plan.transformer, model.plan.vae):
        if single is not None:
            raise CommandFailed(
                f"{model.id} is not packed: {single} is a single file, and sealed folders alone are packed"
            )
    folder = Path(model.plan.folder)
    try:
        model_folder.inspect(folder)
        textual_inversion.inspect(model.plan)
        sealed = seal.read(folder)
    except LoadRefused as refusal:
        raise CommandFailed(f"{model.id} is not packed: {refusal}") from None
    if sealed is None:
        raise CommandFailed(f"{model.id} is not sealed: run `darkroom models seal {model.id}` first")
    for name, file in sealed.files.items():
        contents.files[f"models/{model.id}/{name}"] = folder / name
        contents.known[f"models/{model.id}/{name}"] = file.sha256
    contents.files[f"models/{model.id}/{seal.NAME}"] = folder / seal.NAME


def _add_adapters(contents: Contents, catalog: Catalog, name: str, entry: dict[str, Any]) -> None:
    """Bring an entry's adapters along, and name them where they will lie."""
    here = catalog.path.parent
    if entry.get("loras"):
        entry["loras"] = {
            lora: {**written, "path": _adapter(contents, here / written["path"], f"loras/{name}/{number}")}
            for number, (lora, written) in enumerate(entry["loras"].items())
        }
    if entry.get("embeddings"):
        entry["embeddings"] = {
            token: _embedding(contents, here / written, f"embeddings/{name}/{number}")
            for number, (token, written) in enumerate(entry["embeddings"].items())
        }
    if entry.get("lora_folder"):
        folder = here / entry["lora_folder"]
        for path in weights_in(folder):
            _adapter(contents, path, f"lora_folders/{name}")
        entry["lora_folder"] = f"lora_folders/{name}"


def _embedding(contents: Contents, path: Path, folder: str) -> str:
    name = f"{folder}/{path.name}"
    contents.files[name] = path  # judged with its model
    return name


def _adapter(contents: Contents, path: Path, folder: str) -> str:
    problem = model_folder.adapter_problem(path)
    if problem is not None:
        raise CommandFailed(f"not packed: {problem}")
    name = f"{folder}/{path.name}"
    contents.files[name] = path
    return name
