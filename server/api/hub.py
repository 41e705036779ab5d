"""The hub's routes: AIGNE Hub's own, for the clients that speak nothing else.

Knows paths and the shapes of its answers; the pictures are made as on every other route. There are no credits
here: who has a key may draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.api import bodies, deferral, hub_wire, openapi
from server.api.allowed import allowed, require_allowed
from server.api.generation import make
from server.api.images import ERRORS
from server.api.json_body import read_body
from server.api.late_answer import headers_in_time
from server.api.prefixes import CONTRACT
from server.api.reader import Reading
from server.api.results import base_url, written
from server.api.services import Services
from server.api.submission import Submission
from server.catalog.catalog import Model
from server.errors import DarkroomError, Draining, Unauthorized
from server.worker.status import ModelState

# The identity under which hub clients look for the hub among the parts of a site. Public, and the same everywhere.
_HUB_DID = "z8ia3xzq2tMq8CRHfaXj1BTYJyYnEcHbqP8cJ"
_IMAGE_TYPES = ("", "image", "image_generation", "imageGeneration")


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["hub"])
    keyed: dict[str, Any] = {"dependencies": [openapi.KEY]}

    @routes.get("/__blocklet__.js", summary="Where is the hub?", response_description="Here.")
    async def discovery() -> JSONResponse:
        """What hub clients ask before every call: under which path the hub's routes are. Needs no key."""
        prefix = urlsplit(services.settings.public_url or "").path or "/"
        return JSONResponse({"componentMountPoints": [{"did": _HUB_DID, "mountPoint": prefix}]})

    @routes.post("/api/v2/image", summary="Make pictures (hub)", **_pictures("enveloped"), **keyed)
    async def image(request: Request) -> Response:
        """What `@aigne/aigne-hub` and `aigne run` call. Its headers go out after `hub_headers_s`, finished or not."""

        async def work() -> Response:
            submission = Submission("hub", await _reading(request, hub_wire.read_enveloped), prefix=CONTRACT)
            if deferral.is_asked(request):
                return await deferral.deferred(services, request, submission)
            return await written(bodies.enveloped(await make(services, request, submission)))

        if deferral.is_asked(request):
            return await work()
        return await headers_in_time(request, work(), within_s=services.settings.hub_headers_s)

    @routes.post("/api/v2/image/generations", summary="Make pictures (hub, flat)", **_pictures("flat"), **keyed)
    async def generations(request: Request) -> Response:
        """What `imageGenerationsV2` of `@blocklet/aigne-hub` calls."""
        submission = Submission("hub flat", await _reading(request, hub_wire.read_flat), prefix=CONTRACT)
        if deferral.is_asked(request):
            return await deferral.deferred(services, request, submission)
        return await written(bodies.flat(await make(services, request, submission)))

    async def models(request: Request, type: str = "") -> list[dict[str, Any]]:
        """Every model of models.yaml that your key may use, and its aliases, in the hub's shape; none when another type
        than `image` is asked for."""
        if type not in _IMAGE_TYPES:
            return []
        ids = allowed(services.catalog, request.state.principal.limits)
        models = [model for model in services.catalog if ids is None or model.id in ids]
        return [_row(services, model, name) for model in models for name in (model.id, *model.entry.aliases)]

    for path in ("/api/ai/models", "/api/ai-providers/models"):
        routes.add_api_route(
            path,
            models,
            methods=["GET"],
            summary="List the models (hub)",
            response_description="The models.",
            responses=openapi.errors(Unauthorized),
            include_in_schema=path == "/api/ai/models",
            **keyed,
        )

    @routes.get(
        "/api/v2/status",
        summary="Can this model be used? (hub)",
        response_description="Whether, and if not, why.",
        responses=openapi.errors(Unauthorized),
        **keyed,
    )
    async def status(request: Request, model: str = "") -> dict[str, Any]:
        """Whether `model`, or the server's default, would be drawn with for your key."""
        try:
            if services.queue.draining:
                raise Draining("The server is shutting down.")
            found = services.catalog.resolve(model or services.catalog.default)
            require_allowed(services.catalog, request.state.principal.limits, found)
            services.worker.require(found.plan.key, found.id)
            if await anyio.to_thread.run_sync(found.problem) is not None:  # what is mended may be asked for, and loads
                services.worker.require(found.plan.key, found.id, retry=False)
        except DarkroomError as error:
            return {"available": False, "error": error.message, "code": error.code}
        return {"available": True}

    @routes.get(
        "/api/user/info",
        summary="Whose key is this? (hub)",
        response_description="The key's owner, without credits.",
        responses=openapi.errors(Unauthorized),
        **keyed,
    )
    async def user(request: Request) -> dict[str, Any]:
        """The name of the key's owner. Nothing is counted in credits here."""
        name = request.state.principal.name
        return {
            "user": {"did": name, "fullName": name, "email": "", "avatar": ""},
            "creditBalance": None,
            "paymentLink": None,
            "enableCredit": False,
            "profileLink": base_url(services, request) + "/",
            "creditPrefix": None,
        }

    return routes


async def _reading(request: Request, read: Callable[[dict[str, Any]], Reading]) -> Reading:
    return await read_body(request, read)


def _pictures(shape: str) -> dict[str, Any]:
    """What the OpenAPI document says of a route that draws."""
    content = {"application/json": openapi.hub_body(enveloped=shape == "enveloped")}
    return {
        "response_description": "The pictures.",
        "responses": ERRORS | openapi.DEFERRED,
        "openapi_extra": {"parameters": [openapi.PREFER], "requestBody": {"required": True, "content": content}},
    }


def _row(services: Services, model: Model, name: str) -> dict[str, Any]:
    owner = model.entry.owned_by
    return {
        "key": f"{owner}/{name}",
        "model": name,
        "alias_of": None if name == model.id else model.id,
        "type": "image_generation",
        "provider": owner,
        "providerDisplayName": owner,
        "input_credits_per_token": "0",  # strings: the client's schema refuses numbers
        "output_credits_per_token": "0",
        "status": {"available": services.worker.models[model.plan.key].state is not ModelState.BROKEN},
    }
