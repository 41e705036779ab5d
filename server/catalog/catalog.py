"""The models that clients may name, with everything decided.

Knows IDs, aliases, sizes and presets; knows neither YAML nor HTTP nor torch. A model whose folder is missing or broken
is here too: its ``problem`` says so, and the others serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.facts import model_files, requirements, upscaler
from pipelines.facts.checkpoint import ARCHITECTURES
from pipelines.facts.families import Family
from pipelines.facts.presets import DrawingArea, Preset, overlay
from pipelines.plan import ModelPlan, UpscalerFile
from server.catalog.entries import MIN_SIDE, ModelEntry, PresetEntry, parse_size
from server.catalog.loras import LoraFolder
from server.catalog.single_files import CheckpointFolder
from server.catalog.upscalers import Upscaler
from server.catalog.vendors import answers_inline
from server.errors import BadRequest, ModelNotFound

# What a quality is where models.yaml has no preset of its name; any other is then standard.
_QUALITY_FALLBACK = {"high": "hd", "xhigh": "high", "max": "xhigh"}

MAX_NAME = 200  # characters of a name that is looked up behind its prefixes


@dataclass(frozen=True)
class Model:
    """One ID that clients may name, with everything decided."""

    id: str
    entry: ModelEntry  # keys of ``like`` already taken over
    plan: ModelPlan
    family: Family
    area: DrawingArea
    lora_folder: LoraFolder | None = None  # of this ID, as it was when models.yaml was read
    upscaler: UpscalerFile | None = None  # what enlarges its pictures, in place of Lanczos

    @property
    def sizes(self) -> str:
        """The allowed sizes, for a message."""
        if self.entry.sizes == "any":
            return f"auto, or WIDTHxHEIGHT with sides from {MIN_SIDE} to {self.entry.max_side}"
        return ", ".join(["auto", *self.entry.sizes])

    def size(self, text: str) -> tuple[int, int]:
        """The pixels of a ``size`` other than auto. Raises BadRequest for one that the model does not make."""
        try:
            width, height = parse_size(text)
        except ValueError:
            width = height = 0
        if self.entry.sizes == "any":
            allowed = min(width, height) >= MIN_SIDE and max(width, height) <= self.entry.max_side
        else:
            allowed = text in self.entry.sizes
        if not allowed:
            raise BadRequest(f"size is not one that {self.id} makes. Allowed: {self.sizes}.", param="size")
        return width, height

    def response_form(self, asked: str, *, contract: bool) -> str:
        """url, b64_json or both: of a request that says none, and asked for this model by the name ``asked``."""
        if self.entry.default_response is not None:
            return self.entry.default_response
        if not answers_inline(asked, self.id):
            return "url"
        return "both" if contract else "b64_json"

    def edit_size(self, asked: str, *, contract: bool) -> str:
        """``size`` of an edit that says none."""
        if self.entry.edit_size is not None:
            return self.entry.edit_size
        return "auto" if answers_inline(asked, self.id) and not contract else self.entry.default_size

    def preset(self, quality: str, style: str) -> Preset:
        """Steps, guidance and the rest for a quality and a style; the family's figures where models.yaml has none."""
        entries = self.entry.quality
        named = quality
        while named not in entries and named in _QUALITY_FALLBACK:
            named = _QUALITY_FALLBACK[named]
        return overlay(
            Preset(steps=min(self.family.steps, self.entry.max_steps), guidance=self.family.guidance),
            _preset(entries.get("standard")),
            _preset(entries.get(named)),  # type: ignore[call-overload]
            _preset(self.entry.style.get(style)),  # type: ignore[call-overload]
        )

    @property
    def backgrounds(self) -> tuple[str, ...]:
        """What ``background`` may be."""
        return ("auto", "opaque") if self.entry.matting is None else ("auto", "opaque", "transparent")

    @property
    def scheduler_names(self) -> tuple[str, ...]:
        """What ``scheduler`` may be, in the order to show."""
        return self.family.scheduler_names

    @property
    def control_names(self) -> tuple[str, ...]:
        """The names of the ControlNets that a request may ask for, in the order of models.yaml."""
        return tuple(self.entry.controlnets)

    @cached_property
    def own_scheduler(self) -> tuple[str, Mapping[str, Any]] | None:
        """The class and the configuration of what it samples with where nobody says; None where that cannot be told."""
        return model_files.own_scheduler(self.plan)

    @cached_property
    def weight_bytes(self) -> int | None:
        """Bytes of the weights on disk; None for weights that cannot be served."""
        try:
            return model_files.inspect(self.plan)
        except (LoadRefused, OSError):
            return None

    def problem(self) -> str | None:
        """The reason why the weights cannot be served, told from their files alone; None if they look whole."""
        return model_files.problem(self.plan) or requirements.missing_for_quantise(self.plan.quantise)

    def lora_problems(self) -> dict[str, str]:
        """The adapters that cannot be used, and why, told from their files alone. The model serves without them."""
        found = {file.name: model_folder.adapter_problem(Path(file.path)) for file in self.plan.adapters}
        refused = {} if self.lora_folder is None else self.lora_folder.refused
        return {name: problem for name, problem in found.items() if problem is not None} | refused


def _preset(entry: PresetEntry | None) -> Preset:
    return Preset() if entry is None else Preset(**entry.model_dump())


@dataclass(frozen=True)
class Catalog:
    """All models of one models.yaml, and how names resolve to them."""

    path: Path
    models: dict[str, Model]
    default: str
    providers: frozenset[str]
    names: dict[str, str] = field(default_factory=dict)  # alias or ID → ID
    checkpoints: CheckpointFolder | None = None  # as it was when models.yaml was read
    upscalers: dict[str, Upscaler] = field(default_factory=dict)  # that requests may name

    def resolve(self, name: str) -> Model:
        """The model that a name stands for: an ID or an alias, with or without provider prefixes. Raises
        ModelNotFound."""
        rest = name
        while rest not in self.names:
            prefix, slash, rest = rest.partition("/")
            if not slash or prefix not in self.providers or len(name) > MAX_NAME:
                known = ", ".join(sorted(self.models))
                raise ModelNotFound(f"No such model. This server has: {known}.", param="model")
        return self.models[self.names[rest]]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models.values())

    @property
    def plans(self) -> dict[str, ModelPlan]:
        """The distinct weights, by key."""
        return {model.plan.key: model.plan for model in self}

    @property
    def served_plans(self) -> dict[str, ModelPlan]:
        """All that a worker may load, by key: models, and upscalers by themselves."""
        return {**self.plans, **{each.plan.key: each.plan for each in self.upscalers.values()}}

    def upscaler_problems(self) -> dict[str, str]:
        """The upscalers that cannot be used, and why, by where models.yaml names them. All else serves without."""
        found = {f"upscalers.{name}": each.problem for name, each in self.upscalers.items()}
        for model in self:
            if model.upscaler is not None and model.upscaler.name not in self.upscalers:
                found[f"models.{model.id}.upscaler"] = upscaler.problem(Path(model.upscaler.path))
        return {where: problem for where, problem in found.items() if problem is not None}

    @property
    def lora_folders(self) -> tuple[Path, ...]:
        """The folders whose adapters may be named, once each."""
        folders = {model.lora_folder.path for model in self if model.lora_folder is not None}
        return tuple(sorted(folders))

    @property
    def watched_folders(self) -> tuple[Path, ...]:
        """The folders of which a change is a change of the catalog."""
        return self.lora_folders if self.checkpoints is None else (*self.lora_folders, self.checkpoints.path)

    @cached_property
    def awaited(self) -> tuple[Path, ...]:
        """The files and folders of what is missing or broken: a change of them is a change of the catalog, as what a
        model is, and can do, is told from them."""
        found: set[Path] = set()
        for plan in (plan for key, plan in self.plans.items() if self.models[key].weight_bytes is None):
            folder = Path(plan.folder)
            found |= {folder} - {ARCHITECTURES} if folder.parent != ARCHITECTURES else set()
            files = (*plan.single_files, *(embedding.path for embedding in plan.embeddings))
            found |= {Path(each) for each in (*files, *(control.path for control in plan.controls))}
        networks = [each.file for each in self.upscalers.values()] + [model.upscaler for model in self]
        found |= {path for path in (Path(each.path) for each in networks if each) if upscaler.problem(path) is not None}
        return tuple(sorted(found))

    @property
    def refused_checkpoints(self) -> dict[str, str]:
        """The files of the folder of checkpoints that are no models, and why."""
        return {} if self.checkpoints is None else self.checkpoints.refused
