"""From models.yaml to the catalog: find the file, read it, check it, decide everything.

Knows YAML, the file's keys and how entries build on each other; knows neither HTTP nor torch. A typing error stops
here, naming file, line, key, value and what is allowed. A folder that is missing or broken does not: it leaves its own
model unavailable and the others serving.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import yaml
from pydantic import BaseModel, ValidationError

from pipelines.facts import prompt_weights
from pipelines.facts.component import INDEX
from pipelines.facts.families import FamilyTable
from pipelines.facts.presets import DrawingArea
from pipelines.plan import ModelPlan
from server.catalog import controls, embeddings, lines, loras, single_files, upscalers
from server.catalog.catalog import Catalog, Model
from server.catalog.entries import ID, MIN_SIDE, ModelEntry, ModelsFile, PresetEntry, parse_size
from server.catalog.loras import LoraEntry
from server.catalog.shipped import shipped_models_file
from server.catalog.upscalers import Upscaler
from server.errors import BadRequest, ConfigError

# Keys of an entry with weights of its own alone: how they are loaded, which is once for all IDs that share them.
_WEIGHT_KEYS = (
    *("family", "dtype", "quantise", "quantise_encoders", "encoders", "offload", "compile", "fuse_qkv"),
    "cuda_graphs",
    *("devices", "idle", "idle_unload", "base", "config", "prediction", "transformer", "vae"),
    *("text_encoders", "tokenizer", "embeddings"),
)

_WEIGHTED = ", ".join(sorted(prompt_weights.FAMILIES))
_MAX_SHOWN = 200  # characters of a wrong value

Location = tuple[str | int, ...]  # the keys and indices that lead to a value of the file


def find_models_file(setting: Path | None) -> Path:
    """The models.yaml to serve: the setting's, else this folder's, else the one that ships. Raises ConfigError.

    Its links are not followed: while the server runs, they may be turned to another file.
    """
    if setting is not None:
        if setting.is_dir():
            raise ConfigError(f"{setting}: is a folder; name the models.yaml in it (DARKROOM_MODELS, --models)")
        if not setting.is_file():
            raise ConfigError(f"{setting}: no such file (DARKROOM_MODELS, --models)")
        return setting.absolute()
    here = Path("models.yaml")
    found = here if here.is_file() else shipped_models_file()
    if found is None:
        raise ConfigError("no models.yaml in this folder; name one with --models FILE")
    return found.absolute()


class Device(Protocol):
    """A device of the server, which entries may bind a model to."""

    @property
    def name(self) -> str: ...

    def answers_to(self, word: str) -> bool: ...


def load_catalog(path: Path, devices: Sequence[Device] = ()) -> Catalog:
    """The catalog of a models.yaml. Raises ConfigError naming file, line, key, value and what is allowed.

    Without ``devices``, those that it names are not compared with any.
    """
    path = Path(os.path.realpath(path))
    source = _Source(path, *lines.read(path))
    file = _check(source)
    catalog = _decide(source, file)
    if devices:
        _check_devices(source, catalog, devices)
    return catalog


def _check_devices(source: _Source, catalog: Catalog, devices: Sequence[Device]) -> None:
    for model_id, model in catalog.models.items():
        for name in model.entry.devices or () if model.plan.key == model_id else ():
            if not any(device.answers_to(name) for device in devices):
                there = ", ".join(device.name for device in devices if device.name) or "a single device, cpu or cuda"
                message = f"this server does not draw on it: it has {there} (DARKROOM_DEVICES, --devices)"
                raise source.error(("models", model_id, "devices"), message, name)


@dataclass(frozen=True)
class _Source:
    """The file as it was read, for errors that name a line of it."""

    path: Path
    root: yaml.Node
    data: Any

    def error(self, location: Location, message: str, value: object) -> ConfigError:
        """What is wrong with ``value``, and where it is written."""
        node, found = lines.find(self.root, location)
        shown = f" = {_short(repr(value))}" if isinstance(value, str | int | float | bool) else ""
        where = ".".join(str(part) for part in location[: len(found)]) or "the file"
        allowed = ""
        if message == "Field required":
            where, shown, message = ".".join(map(str, location)), "", "this key is required"
        if message.startswith("Extra inputs"):
            message, allowed = "no such key", f"; allowed: {', '.join(_shape_at(location).model_fields)}"
        return ConfigError(f"{self.path}, line {node.start_mark.line + 1}: {where}{shown}: {message}{allowed}")


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _shape_at(location: Location) -> type[BaseModel]:
    """The class whose fields are the keys that may be written where ``location`` ends."""
    if "quality" in location or "style" in location:
        return PresetEntry
    if "loras" in location:
        return LoraEntry
    return ModelEntry if len(location) > 2 else ModelsFile


def _check(source: _Source) -> ModelsFile:
    try:
        return ModelsFile.model_validate(source.data)
    except ValidationError as error:
        first = error.errors()[0]
        raise source.error(first["loc"], first["msg"].removeprefix("Value error, "), first.get("input")) from None


def _decide(source: _Source, file: ModelsFile) -> Catalog:
    models: dict[str, Model] = {}
    found = None
    if file.checkpoints is not None:
        found = single_files.read_folder((source.path.parent / file.checkpoints).absolute(), file)
        file = file.model_copy(update={"models": {**file.models, **found.found}})
    names: dict[str, str] = {}
    networks = upscalers.read(source.path.parent, file.upscalers)
    for model_id, written in file.models.items():
        base = _base(source, file, model_id, written)
        entry = _with_default_size(source, model_id, written if base is None else _inherit(base, written))
        entry = _with_max_steps(source, model_id, entry)
        _claim_names(source, names, model_id, entry)
        try:
            models[model_id] = model_of(source.path.parent, model_id, written.like or model_id, entry, networks)
        except single_files.Clash as clash:
            raise source.error(("models", model_id, clash.key), str(clash), None) from None
        except (ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
            key = "loras" if entry.loras else "lora_folder"
            raise source.error(("models", model_id, key), str(error), None) from None
        _check_edit_size(source, models[model_id])
        _check_schedulers(source, models[model_id])
        _check_prompt_weights(source, models[model_id])
        _check_controlnets(source, models[model_id])
    _share_weights(source, models)
    if file.default not in names:
        known = ", ".join(models) or "the files in checkpoints, and there are none"
        raise source.error(("default",), f"must be one of {known}", file.default)
    # Hub clients write OWNER/ID for whatever a list of models shows them.
    prefixes = frozenset(file.providers) | {model.entry.owned_by for model in models.values()}
    return Catalog(source.path, models, names[file.default], prefixes, names, found, networks)


def _base(source: _Source, file: ModelsFile, model_id: str, written: ModelEntry) -> ModelEntry | None:
    """The entry that ``written`` is like; None where it has weights of its own."""
    if written.like is None:
        return None
    where = ("models", model_id)
    base = file.models.get(written.like)
    if base is None or base.like is not None:
        owners = ", ".join(i for i, e in file.models.items() if e.like is None)
        raise source.error((*where, "like"), f"must be an ID that has a path or a checkpoint: {owners}", written.like)
    for name in _WEIGHT_KEYS:
        if name in written.model_fields_set:
            message = f"is {written.like}'s to say, as it loads these weights for all; write it there"
            raise source.error((*where, name), message, getattr(written, name))
    return base


def _inherit(base: ModelEntry, written: ModelEntry) -> ModelEntry:
    """``written`` over ``base``: keys that the file does not set are the base's, names excepted."""
    kept = {name: getattr(base, name) for name in base.model_fields_set - {"aliases", "like", "hub", "preload"}}
    own = {name: getattr(written, name) for name in written.model_fields_set - {"like"}}
    return ModelEntry.model_construct(**{**kept, **own})


def _with_default_size(source: _Source, model_id: str, entry: ModelEntry) -> ModelEntry:
    """The entry with a default_size that a request may have: the built-in one is fitted into max_side.

    Raises ConfigError for one that is written and that the model does not make.
    """
    where = ("models", model_id, "default_size")
    written = "default_size" in entry.model_fields_set
    if entry.sizes != "any":
        if entry.default_size not in entry.sizes:
            built_in = "" if written else f"; write one, as the built-in {entry.default_size} is not among them"
            raise source.error(where, f"default_size is not one of sizes{built_in}", entry.default_size)
        return entry
    sides = parse_size(entry.default_size)
    if min(sides) >= MIN_SIDE and max(sides) <= entry.max_side:
        return entry
    if not written:
        return entry.model_copy(update={"default_size": f"{entry.max_side}x{entry.max_side}"})
    allowed = f"from {MIN_SIDE} to max_side, {entry.max_side}"
    raise source.error(where, f"default_size has a side that requests may not have: {allowed}", entry.default_size)


def _with_max_steps(source: _Source, model_id: str, entry: ModelEntry) -> ModelEntry:
    """The entry with a max_steps that holds for its presets too: the built-in one is raised to theirs.

    Raises ConfigError for a preset beyond one that is written: its quality would draw what no request may ask for.
    """
    if "max_steps" not in entry.model_fields_set:
        presets = (*entry.quality.values(), *entry.style.values())
        most = max((preset.steps or 0 for preset in presets), default=0)
        return entry.model_copy(update={"max_steps": max(entry.max_steps, most)})
    for kind in ("quality", "style"):
        for name, preset in getattr(entry, kind).items():
            if preset.steps is not None and preset.steps > entry.max_steps:
                message = f"is more than this model's max_steps, {entry.max_steps}; lower it, or raise max_steps"
                raise source.error(("models", model_id, kind, name, "steps"), message, preset.steps)
    return entry


def _check_edit_size(source: _Source, model: Model) -> None:
    """Raises ConfigError for one that the model does not make: every edit that names no size would be refused."""
    size = model.entry.edit_size
    if size is None or size == "auto":
        return
    try:
        model.size(size)
    except BadRequest:
        raise source.error(("models", model.id, "edit_size"), f"must be one of {model.sizes}", size) from None


def _check_schedulers(source: _Source, model: Model) -> None:
    """Raises ConfigError for a preset whose scheduler is not one of the model's: all of its requests would fail."""
    if not model.family.classes:
        return  # nobody knows what it is
    for kind in ("quality", "style"):
        for name, preset in getattr(model.entry, kind).items():
            if preset.scheduler is not None and preset.scheduler not in model.scheduler_names:
                where = ("models", model.id, kind, name, "scheduler")
                allowed = f"is not for {model.family.name}; it must be one of {', '.join(model.scheduler_names)}"
                raise source.error(where, allowed, preset.scheduler)


def _check_prompt_weights(source: _Source, model: Model) -> None:
    """Raises ConfigError where nobody knows how the model's prompts are weighted, or where its own texts are too
    heavy: every request with them would fail."""
    if not model.entry.prompt_weights:
        return
    where = ("models", model.id)
    is_there = (Path(model.plan.folder) / INDEX).is_file()  # else nobody knows what it is
    if model.family.name not in prompt_weights.FAMILIES and (model.family.classes or is_there):
        message = f"cannot be had with family {model.family.name}; those that have it: {_WEIGHTED}"
        raise source.error((*where, "prompt_weights"), message, None)
    texts: list[tuple[Location, str]] = [((*where, "matting_prompt"), model.entry.matting_prompt)]
    for kind in ("quality", "style"):
        for name, preset in getattr(model.entry, kind).items():
            for key in ("prompt_suffix", "negative_prompt"):
                texts.append(((*where, kind, name, key), getattr(preset, key) or ""))
    for place, text in texts:
        try:
            prompt_weights.parse(text)
        except prompt_weights.TooHeavy as error:
            raise source.error(place, str(error), text) from None


def _check_controlnets(source: _Source, model: Model) -> None:
    """Raises ConfigError where the model cannot have ControlNets, or one is for another model."""
    where = ("models", model.id, "controlnets")
    clash = controls.clash(model.plan, model.family)
    if clash is not None:
        raise source.error(where, clash, None)
    for name, problem in controls.misfits(model.plan).items():
        raise source.error((*where, name), problem, model.entry.controlnets[name])


def _claim_names(source: _Source, names: dict[str, str], model_id: str, entry: ModelEntry) -> None:
    """Adds the ID and its aliases to ``names``. Raises ConfigError for one that already stands for another ID."""
    where = ("models", model_id)
    for name in (model_id, *entry.aliases):
        if not all(ID.fullmatch(part) for part in name.split("/")):
            raise source.error(where, "a name has letters, digits and . _ : - only, and / between prefixes", name)
        if name in names:
            raise source.error(where, f"this name already stands for {names[name]}", name)
        names[name] = model_id


def model_of(
    folder: Path, model_id: str, key: str, entry: ModelEntry, networks: Mapping[str, Upscaler] | None = None
) -> Model:
    """One ID with everything decided. Paths are relative to ``folder``; its upscaler may be one of ``networks``. Raises
    ValueError for adapters that cannot be had with the entry's other keys."""
    clash = loras.clash(compile=entry.compile, fuse_qkv=entry.fuse_qkv, quantise=entry.quantise)
    if (entry.loras or entry.lora_folder is not None) and clash is not None:
        raise ValueError(clash)
    single_files.refuse_clash(entry)
    if entry.encoders == "host" and entry.quantise_encoders is not None:
        raise ValueError("encoders: host and quantise_encoders exclude each other: take one of them out")
    found = None
    if entry.lora_folder is not None:
        found = loras.read_folder((folder / entry.lora_folder).absolute(), entry.loras)
        entry = entry.model_copy(update={"loras": {**entry.loras, **found.found}})
    weights = single_files.folder_of(entry, folder)
    families = FamilyTable()
    family = families.detect(weights) if entry.family == "auto" else families.by_name[entry.family]
    side = single_files.native_side(entry, weights) or family.native
    width, height = parse_size(entry.native_size) if entry.native_size else (side, side)
    area = DrawingArea(
        width,
        height,
        entry.multiple or family.multiple,
        min_pixels=entry.min_drawn_pixels or width * height // 4,
        max_pixels=entry.max_drawn_pixels or width * height * 5 // 4,
    )
    plan = ModelPlan(
        key,
        str(weights),
        family.name,
        dtype=entry.dtype,
        keep=entry.keep,
        native_width=width,
        native_height=height,
        quantise=entry.quantise,
        quantise_encoders=entry.quantise_encoders,
        encoders=entry.encoders,
        offload=entry.offload,
        compile=entry.compile,
        fuse_qkv=entry.fuse_qkv,
        cuda_graphs=entry.cuda_graphs,
        adapters=loras.files(entry.loras, folder),
        checkpoint=single_files.absolute(folder, entry.checkpoint),
        prediction=entry.prediction,
        is_transformer_alone=entry.transformer is not None and entry.path is None,
        transformer=single_files.absolute(folder, entry.transformer),
        vae=single_files.absolute(folder, entry.vae),
        text_encoders=tuple(str((folder / each).absolute()) for each in entry.text_encoders),
        tokenizer=single_files.absolute(folder, entry.tokenizer),
        embeddings=embeddings.files(entry.embeddings, folder),
        controls=controls.files(entry.controlnets, folder),
        devices=tuple(entry.devices or ()),
    )
    plan = msgspec.structs.replace(plan, revision=single_files.revision(plan))
    return Model(model_id, entry, plan, family, area, found, upscalers.of_model(folder, entry.upscaler, networks or {}))


def _share_weights(source: _Source, models: dict[str, Model]) -> None:
    """IDs that share weights have one plan: their owner's, with the adapters, ControlNets and upscalers of all, kept
    if any of them says so."""
    by_key: dict[str, list[Model]] = {}
    for model in models.values():
        by_key.setdefault(model.plan.key, []).append(model)
    for model_id, model in models.items():
        key = model.plan.key
        sharing = by_key[key]
        try:
            adapters = loras.together(other.plan.adapters for other in sharing)
        except ValueError as error:
            raise source.error(("models", model_id, "loras"), str(error), None) from None
        try:
            nets = controls.together(other.plan.controls for other in sharing)
        except ValueError as error:
            raise source.error(("models", model_id, "controlnets"), str(error), None) from None
        try:
            networks = upscalers.together(other.upscaler for other in sharing)
        except ValueError as error:
            raise source.error(("models", model_id, "upscaler"), str(error), model.entry.upscaler) from None
        keep = any(other.entry.keep for other in sharing)
        if keep and (model.entry.idle or model.entry.idle_unload):
            message = "keep cannot be had with idle or idle_unload, and another ID that shares these weights is kept"
            raise source.error(("models", model_id, "idle" if model.entry.idle else "idle_unload"), message, None)
        plan = msgspec.structs.replace(
            models[key].plan, keep=keep, adapters=adapters, controls=nets, upscalers=networks
        )
        models[model_id] = replace(model, plan=plan)
