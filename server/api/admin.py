"""Administration's routes: models loaded and unloaded by hand, the worker put to sleep, models.yaml read again.

Only a principal that is an admin may ask; ``server.edge.auth`` says who is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from server.api import openapi
from server.api.ops import worker_state
from server.api.prefixes import add_under_both
from server.api.services import Services
from server.errors import (
    AdminRequired,
    BadRequest,
    ConfigError,
    Draining,
    ModelNotFound,
    ModelUnavailable,
    Unauthorized,
    Unavailable,
)
from server.worker.status import ModelState

Endpoint = Callable[..., Any]


def router(services: Services) -> APIRouter:
    routes = APIRouter(
        tags=["operations"],
        dependencies=[openapi.KEY, Depends(_require_admin)],
        responses=openapi.errors(Unauthorized, AdminRequired),
    )

    @_post(
        routes,
        "/models/{model_id:path}/load",
        summary="Load a model",
        response_description="It is on the device.",
        responses=openapi.errors(ModelNotFound, Unavailable, ModelUnavailable),
    )
    async def load(model_id: str) -> dict[str, Any]:
        """Returns once the model's weights are on the device. Takes an alias too."""
        _require_open(services)
        model = services.catalog.resolve(model_id)
        services.worker.require(model.plan.key, model.id)
        await services.worker.load(model.plan, model.id)
        return {"id": model.id, "object": "model", "state": str(ModelState.READY)}

    @_post(
        routes,
        "/models/{model_id:path}/unload",
        status_code=202,
        summary="Unload a model",
        response_description="It leaves as soon as nothing is drawn with it.",
        responses=openapi.errors(ModelNotFound),
    )
    async def unload(model_id: str) -> dict[str, Any]:
        """The model's weights leave the device and host memory once nothing is drawn with them. The next request that
        names it loads it again."""
        model = services.catalog.resolve(model_id)
        services.worker.leave(model.plan, ModelState.UNLOADED)
        state = services.worker.models[model.plan.key].state
        return {"id": model.id, "object": "model", "state": str(state)}

    @_post(routes, "/admin/sleep", status_code=202, summary="Give the device back", response_description="It will.")
    async def sleep() -> dict[str, Any]:
        """The worker process ends once nothing is drawn, and the next request starts it again."""
        services.worker.sleep()
        return {"worker": {"state": worker_state(services)}}

    @_post(routes, "/admin/wake", status_code=202, summary="Take the device again", response_description="It will.")
    async def wake() -> dict[str, Any]:
        """The worker process starts, if it sleeps, and loads the models that have `preload`."""
        _require_open(services)
        services.worker.wake()
        return {"worker": {"state": worker_state(services)}}

    @_post(
        routes,
        "/admin/reload",
        summary="Read models.yaml again",
        response_description="It was read, and is served.",
        responses=openapi.errors(BadRequest),
    )
    async def reload() -> Response:
        """Reads models.yaml, and the folders of adapters that it names, whether or not they have changed. A wrong file
        changes nothing."""
        try:
            changes = await services.served.reload()
        except ConfigError:
            message = f"{services.served.problem}. What was served before still is."
            raise BadRequest(message, code="invalid_models_file") from None
        return JSONResponse({"added": changes.added, "changed": changes.changed, "removed": changes.removed})

    return routes


def _post(routes: APIRouter, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
    def add(endpoint: Endpoint) -> Endpoint:
        add_under_both(routes, path, endpoint, methods=["POST"], **options)
        return endpoint

    return add


def _require_admin(request: Request) -> None:
    principal = getattr(request.state, "principal", None)
    if principal is None or not principal.admin:
        raise AdminRequired(
            "Only an admin key may ask for this: one of `darkroom keys create NAME --admin`, or, on a server without"
            " keys that only this machine reaches, a program on it."
        )


def _require_open(services: Services) -> None:
    if services.queue.draining:
        raise Draining("The server is shutting down.")
