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
from pipelines.facts import controls, model_files, seal, sealed, upscaler
from pipelines.facts import folder as model_folder
from pipelines.facts.seal import Seal
from pipelines.facts.sealed import Sealed
from pipelines.spec import LANCZOS
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
    written = yaml.safe_load(catalog.path.read_text(encoding="utf-8"))
    # One of the folder of checkpoints has no entry: there it gets one.
    listed = {**written.get("models", {}), **{each: {} for each in chosen if each not in written.get("models", {})}}
    entries = {each: dict(entry) for each, entry in listed.items() if each in chosen}
    for key in sorted(keys):
        entries[key] |= _add_model(contents, catalog.models[key])
    for each, entry in entries.items():
        _add_adapters(contents, catalog, each, entry)
    _add_upscalers(contents, catalog, written, entries)
    written.pop("checkpoints", None)
    default = catalog.default if catalog.default in chosen else next(iter(entries))
    return contents, yaml.safe_dump({**written, "default": default, "models": entries}, sort_keys=False)


def _add_model(contents: Contents, model: Model) -> dict[str, Any]:
    """Bring a model's folder and its single files along. The keys of its entry, as they are where they will lie."""
    try:
        model_files.inspect(model.plan)
        seals = [(each, each.read()) for each in sealed.of(model.plan) if not each.is_spare]
    except LoadRefused as refusal:
        raise CommandFailed(f"{model.id} is not packed: {refusal}") from None
    keys: dict[str, Any] = {}
    for number, (each, found) in enumerate(seals):
        if found is None:
            what = model.id if each.file is None else f"{model.id}: {each.path}"
            raise CommandFailed(f"{what} is not sealed: run `darkroom models seal {model.id}` first")
        if each.file is None:
            place = f"{'configs' if each.key == 'config' else 'models'}/{model.id}"
            keys[each.key] = place
        else:
            place = f"files/{model.id}/{number}"  # two of them may have one name
            if each.key == "text_encoders":
                keys.setdefault(each.key, []).append(f"{place}/{each.file}")
            else:
                keys[each.key] = f"{place}/{each.file}"
        _add_sealed(contents, place, each, found)
    return keys


def _add_sealed(contents: Contents, place: str, each: Sealed, found: Seal) -> None:
    for name, file in found.files.items():
        contents.files[f"{place}/{name}"] = each.folder / name
        contents.known[f"{place}/{name}"] = file.sha256
    contents.files[f"{place}/{each.manifest.name}"] = each.manifest


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
            token: _packed(contents, here / written, f"embeddings/{name}/{number}")
            for number, (token, written) in enumerate(entry["embeddings"].items())
        }
    if entry.get("controlnets"):
        entry["controlnets"] = {
            control: _controlnet(contents, (here / written).resolve(), f"controlnets/{name}/{number}")
            for number, (control, written) in enumerate(entry["controlnets"].items())
        }
    if entry.get("lora_folder"):
        folder = here / entry["lora_folder"]
        for path in weights_in(folder):
            _adapter(contents, path, f"lora_folders/{name}")
        entry["lora_folder"] = f"lora_folders/{name}"


def _add_upscalers(
    contents: Contents, catalog: Catalog, written: dict[str, Any], entries: dict[str, dict[str, Any]]
) -> None:
    """Bring the upscalers of the file and of its entries along, each file once: IDs that share weights share them too.
    Raises CommandFailed for one that cannot be used."""
    places: dict[Path, str] = {}

    def place_of(path: str) -> str:
        whole = (catalog.path.parent / path).absolute()
        if whole not in places:
            problem = upscaler.problem(whole)
            if problem is not None:
                raise CommandFailed(f"not packed: {problem}")
            places[whole] = _packed(contents, whole, f"upscalers/{len(places)}")
        return places[whole]

    known = written.get("upscalers") or {}
    if known:
        written["upscalers"] = {name: place_of(path) for name, path in known.items()}
    for entry in entries.values():
        named = entry.get("upscaler")
        if named is not None and named not in known and named.lower() != LANCZOS:
            entry["upscaler"] = place_of(named)


def _adapter(contents: Contents, path: Path, folder: str) -> str:
    problem = model_folder.adapter_problem(path)
    if problem is not None:
        raise CommandFailed(f"not packed: {problem}")
    return _packed(contents, path, folder)


def _controlnet(contents: Contents, folder: Path, place: str) -> str:
    """The name in the bundle of a ControlNet's folder that has been found whole, with its seal if it has one."""
    found = seal.read(folder)
    for file in controls.names(folder):
        contents.files[f"{place}/{file}"] = folder / file
        if found is not None:
            contents.known[f"{place}/{file}"] = found.files[file].sha256
    if found is not None:
        contents.files[f"{place}/{seal.NAME}"] = folder / seal.NAME
    return place


def _packed(contents: Contents, path: Path, folder: str) -> str:
    """The name in the bundle of a file that has been found whole, with its seal if it has one."""
    name = f"{folder}/{path.name}"
    contents.files[name] = path
    manifest = seal.name_for(path.name)
    found = seal.read(path.parent, manifest)
    if found is not None:
        contents.files[f"{folder}/{manifest}"] = path.parent / manifest
        contents.known[name] = found.files[path.name].sha256
    return name
