"""Models' routes, GET …/models: the IDs that this server answers to, in the shape that OpenAI clients read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anyio import to_thread
from fastapi import APIRouter

from pipelines.facts.presets import QUALITIES, STYLES
from pipelines.plan import ModelPlan
from server.api import openapi
from server.api.prefixes import add_under_both
from server.api.seals import SealStates
from server.api.services import Services
from server.catalog.catalog import Model
from server.errors import ModelNotFound, Unauthorized

# The file has no dates; clients only need an integer. 2026-01-01, the year the vendors' models ended.
_CREATED = 1767225600


def router(services: Services) -> APIRouter:
    states = SealStates(services.settings.data_dir)
    routes = APIRouter(tags=["models"], dependencies=[openapi.KEY], responses=openapi.errors(Unauthorized))

    async def models() -> dict[str, Any]:
        """Every model of models.yaml, and a row for each of its aliases: clients look for the name that they send."""
        seals = await _seals(states, services.catalog.plans.values())
        rows = [row for model in services.catalog for row in _rows(services, model, seals)]
        return {"object": "list", "data": rows}

    async def model(model_id: str) -> dict[str, Any]:
        """One model, by ID or alias, with or without a provider prefix."""
        seals = await _seals(states, (services.catalog.resolve(model_id).plan,))
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


async def _seals(states: SealStates, plans: Iterable[ModelPlan]) -> dict[str, Any]:
    """What each plan's ``seal`` is, by key. Files are looked at: off the loop, as they may lie on another machine."""
    asked = tuple(plans)
    return await to_thread.run_sync(lambda: {plan.key: states.of(plan) for plan in asked})


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
        "embeddings": sorted(model.entry.embeddings),
        "prompt_weights": model.entry.prompt_weights,
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
