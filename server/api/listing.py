"""The rows of GET …/models: what clients are told of each model, in JSON.

Knows what a row says and when it may say something else; looks at no files. All that models.yaml decides is put
together once for each catalog, for there are dozens of presets; the whole list is written anew when a model has moved,
or is sealed or verified.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import TypeAdapter

from pipelines.facts.presets import QUALITIES, STYLES
from server.api.services import Services
from server.catalog.catalog import Catalog, Model

# The file has no dates; clients only need an integer. 2026-01-01, the year the vendors' models ended.
_CREATED = 1767225600

_Standing = tuple[str, dict[str, str], Any]  # state, devices and seal

Row = dict[str, Any]
ROW = TypeAdapter(Row)


class Listing:
    """The rows of one server. All methods run on the event loop's thread."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._catalog: Catalog | None = None  # that what is kept here is of
        self._rows: dict[str, Row] = {}  # by model, without its standing
        self._standings: list[_Standing] = []  # that the written list tells of
        self._written = b""

    def row(self, model: Model, alias: str | None, seals: Mapping[str, Any]) -> Row:
        """What is told of one model, under its ID or an alias."""
        return _under(self._row(model, _standing(self._services, model, seals)), alias)

    def written(self, seals: Mapping[str, Any]) -> bytes:
        """The list of all, with a row for each alias: clients look for the name that they send."""
        catalog = self._current()
        standings = [_standing(self._services, model, seals) for model in catalog]
        if not self._written or standings != self._standings:
            rows = list[Row]()
            for model, standing in zip(catalog, standings, strict=True):
                row = self._row(model, standing)
                rows += [_under(row, alias) for alias in (None, *model.entry.aliases)]
            self._written, self._standings = ROW.dump_json({"object": "list", "data": rows}), standings
        return self._written

    def written_of(self, ids: Collection[str], seals: Mapping[str, Any]) -> bytes:
        """The list of these models alone, written for who asks."""
        models = [model for model in self._current() if model.id in ids]
        rows = [self.row(model, alias, seals) for model in models for alias in (None, *model.entry.aliases)]
        return ROW.dump_json({"object": "list", "data": rows})

    def _current(self) -> Catalog:
        """The catalog, after what is kept of another has been forgotten."""
        if self._catalog is not self._services.catalog:
            self._catalog = self._services.catalog
            self._rows.clear()
            self._written = b""
        return self._catalog

    def _row(self, model: Model, standing: _Standing) -> Row:
        catalog = self._current()
        if model.id not in self._rows:
            self._rows[model.id] = _decided(model, is_default=model.id == catalog.default)
        state, devices, seal = standing
        return {**self._rows[model.id], "state": state, "devices": devices, "seal": seal}


def _standing(services: Services, model: Model, seals: Mapping[str, Any]) -> _Standing:
    key = model.plan.key
    return str(services.worker.models[key].state), services.worker.states(model.plan), seals.get(key)


def _under(row: Row, alias: str | None) -> Row:
    return row if alias is None else {**row, "id": alias, "alias_of": row["id"], "aliases": [], "default": False}


def _decided(model: Model, *, is_default: bool) -> Row:
    """What models.yaml decides. The rest has its place in the order."""
    return {
        "id": model.id,
        "alias_of": None,
        "object": "model",
        "created": _CREATED,
        "owned_by": model.entry.owned_by,
        "state": None,
        "devices": None,
        "aliases": model.entry.aliases,
        "weights": model.plan.key,
        "sizes": model.entry.sizes,
        "max_side": model.entry.max_side if model.entry.sizes == "any" else None,
        "default_size": model.entry.default_size,
        "tasks": sorted(model.family.tasks),
        "schedulers": model.scheduler_names,
        "loras": [
            {"name": name, "weight": lora.weight, "description": lora.description}
            for name, lora in model.entry.loras.items()
        ],
        "embeddings": sorted(model.entry.embeddings),
        "controls": model.control_names,
        "prompt_weights": model.entry.prompt_weights,
        "backgrounds": model.backgrounds,
        "weight_bytes": model.weight_bytes,
        "seal": None,
        "default": is_default,
        "references": model.family.references,
        "by_instruction": model.family.by_instruction,
        "edit_strength": None if model.family.by_instruction else model.entry.edit_strength,
        "max_prompt": model.entry.max_prompt,
        "max_steps": model.entry.max_steps,
        "presets": _presets(model, STYLES[0]),
        "style_presets": {style: _presets(model, style) for style in STYLES},
    }


def _presets(model: Model, style: str) -> dict[str, Any]:
    """What each quality stands for in this style."""
    presets = {quality: model.preset(quality, style) for quality in QUALITIES}
    return {quality: {"steps": preset.steps, "guidance": preset.guidance} for quality, preset in presets.items()}
