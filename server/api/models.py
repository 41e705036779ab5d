"""Models' routes, GET …/models: the IDs that this server answers to, in the shape that OpenAI clients read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import APIRouter

from pipelines.errors import LoadRefused
from pipelines.facts import seal
from pipelines.facts.presets import QUALITIES, STYLES
from pipelines.plan import ModelPlan
from server.api import openapi
from server.api.prefixes import add_under_both
from server.api.services import Services
from server.catalog.catalog import Model
from server.errors import ModelNotFound, Unauthorized
from server.storage.verified import VerifiedFolders

# The file has no dates; clients only need an integer. 2026-01-01, the year the vendors' models ended.
_CREATED = 1767225600


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["models"], dependencies=[openapi.KEY], responses=openapi.errors(Unauthorized))

    async def models() -> dict[str, Any]:
        """Every model of models.yaml, and a row for each of its aliases: clients look for the name that they send."""
        seals = await _seals(services, services.catalog.plans.values())
        rows = [row for model in services.catalog for row in _rows(services, model, seals)]
        return {"object": "list", "data": rows}

    async def model(model_id: str) -> dict[str, Any]:
        """One model, by ID or alias, with or without a provider prefix."""
        seals = await _seals(services, (services.catalog.resolve(model_id).plan,))
        model = services.catalog.resolve(model_id)  # not before: the catalog may be another now
        alias = next((name for name in model.entry.aliases if model_id == name or model_id.endswith(f"/{name}")), None)
        return _row(services, model, seals) if alias is None else _alias_row(services, model, alias, seals)

    add_under_both(
        routes, "/models", models, methods=["GET"], summary="List the models", response_description="The models."
    )
    add_under_both(
        routes,
        "/models/{model_id:path}",
        model,
        methods=["GET"],
        summary="Describe one model",
        response_description="The model.",
        responses=openapi.errors(ModelNotFound),
    )
    return routes


async def _seals(services: Services, plans: Iterable[ModelPlan]) -> dict[str, Any]:
    """What each plan's ``seal`` is, by key. Files are read: off the loop, as a folder may lie on another machine."""
    kept = VerifiedFolders(services.settings.data_dir)
    folders = {plan.key: plan.folder for plan in plans}
    return await to_thread.run_sync(lambda: {key: _seal(kept, folder) for key, folder in folders.items()})


def _seal(kept: VerifiedFolders, folder: str) -> dict[str, Any] | None:
    try:
        sealed = seal.read(Path(folder))
    except LoadRefused:
        return {"state": "damaged", "verified_at": None}
    if sealed is None:
        return None
    last = kept.last(folder, sealed.sha256)
    if last is None:
        return {"state": "unknown", "verified_at": None}
    return {"state": "intact" if last.intact else "damaged", "verified_at": last.at}


def _rows(services: Services, model: Model, seals: Mapping[str, Any]) -> list[dict[str, Any]]:
    aliases = model.entry.aliases
    return [_row(services, model, seals), *(_alias_row(services, model, alias, seals) for alias in aliases)]


def _alias_row(services: Services, model: Model, alias: str, seals: Mapping[str, Any]) -> dict[str, Any]:
    return {**_row(services, model, seals), "id": alias, "alias_of": model.id, "aliases": [], "default": False}


def _row(services: Services, model: Model, seals: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": model.id,
        "alias_of": None,
        "object": "model",
        "created": _CREATED,
        "owned_by": model.entry.owned_by,
        "state": services.worker.models[model.plan.key].state,
        "devices": services.worker.states(model.plan),
        "aliases": model.entry.aliases,
        "sizes": model.entry.sizes,
        "max_side": model.entry.max_side if model.entry.sizes == "any" else None,
        "default_size": model.entry.default_size,
        "tasks": sorted(model.family.tasks),
        "schedulers": model.scheduler_names,
        "loras": [
            {"name": name, "weight": lora.weight, "description": lora.description}
            for name, lora in model.entry.loras.items()
        ],
        "backgrounds": model.backgrounds,
        "weight_bytes": model.weight_bytes,
        "seal": seals.get(model.plan.key),
        "default": model.id == services.catalog.default,
        "references": model.family.references,
        "by_instruction": model.family.by_instruction,
        "max_prompt": model.entry.max_prompt,
        "max_steps": model.entry.max_steps,
        "presets": _presets(model, STYLES[0]),
        "style_presets": {style: _presets(model, style) for style in STYLES},
    }


def _presets(model: Model, style: str) -> dict[str, Any]:
    """What each quality stands for in this style."""
    presets = {quality: model.preset(quality, style) for quality in QUALITIES}
    return {quality: {"steps": preset.steps, "guidance": preset.guidance} for quality, preset in presets.items()}
