"""Models' routes, GET …/models: the IDs that this server answers to, in the shape that OpenAI clients read."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from server.api import openapi
from server.api.allowed import allowed, require_allowed
from server.api.listing import ROW, Listing
from server.api.prefixes import add_under_both
from server.api.seals import SealStates
from server.api.services import Services
from server.errors import ModelForbidden, ModelNotFound, Unauthorized

_JSON = "application/json"


def router(services: Services) -> APIRouter:
    states, listing = SealStates(services.settings.data_dir), Listing(services)
    routes = APIRouter(tags=["models"], dependencies=[openapi.KEY], responses=openapi.errors(Unauthorized))

    async def models(request: Request) -> Response:
        """Every model of models.yaml that your key may use, and a row for each of its aliases: clients look for the
        name that they send."""
        seals = await states.look(services.catalog)
        ids = allowed(services.catalog, request.state.principal.limits)
        written = listing.written(seals) if ids is None else listing.written_of(ids, seals)
        return Response(written, media_type=_JSON)

    async def model(request: Request, model_id: str) -> Response:
        """One model, by ID or alias, with or without a provider prefix."""
        limits = request.state.principal.limits
        require_allowed(services.catalog, limits, services.catalog.resolve(model_id))
        seals = await states.look(services.catalog)
        model = services.catalog.resolve(model_id)  # not before: the catalog may be another now
        alias = next((name for name in model.entry.aliases if model_id == name or model_id.endswith(f"/{name}")), None)
        return Response(ROW.dump_json(listing.row(model, alias, seals)), media_type=_JSON)

    add_under_both(
        routes,
        "/models",
        models,
        methods=["GET"],
        summary="List the models",
        response_description="The models.",
        response_model=dict[str, Any],
    )
    add_under_both(
        routes,
        "/models/{model_id:path}",
        model,
        methods=["GET"],
        summary="Describe one model",
        response_description="The model.",
        response_model=dict[str, Any],
        responses=openapi.errors(ModelNotFound, ModelForbidden),
    )
    return routes
