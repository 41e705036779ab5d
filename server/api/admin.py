"""Administration's routes: models loaded and unloaded by hand, the worker put to sleep, models.yaml read again.

Only a principal that is an admin may ask; ``server.edge.auth`` says who is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from server.api import openapi
from server.api.ops import worker_state
from server.api.prefixes import add_under_both
from server.api.services import Services
from server.catalog.catalog import Model
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
DeviceQuery = Annotated[
    str | None, Query(max_length=128, description="one of the server's devices, as /readyz names it; default: all")
]


def router(services: Services) -> APIRouter:
    routes = APIRouter(
        tags=["operations"],
        dependencies=[openapi.KEY, Depends(require_admin)],
        responses=openapi.errors(Unauthorized, AdminRequired),
    )

    @_post(
        routes,
        "/models/{model_id:path}/load",
        summary="Load a model",
        response_description="It is on the device.",
        responses=openapi.errors(BadRequest, ModelNotFound, Unavailable, ModelUnavailable),
    )
    async def load(model_id: str, device: DeviceQuery = None) -> dict[str, Any]:
        """Returns once the model's weights are on the device; without one, on every device that the model may be on.
        Takes an alias too."""
        _require_open(services)
        model = services.catalog.resolve(model_id)
        _require_device(services, device, model)
        services.worker.require(model.plan.key, model.id)
        await services.worker.load(model.plan, model.id, device)
        return {"id": model.id, "object": "model", "state": str(ModelState.READY), **_devices(services, model)}

    @_post(
        routes,
        "/models/{model_id:path}/unload",
        status_code=202,
        summary="Unload a model",
        response_description="It has left, or leaves as soon as nothing is drawn with it: `state` says which.",
        responses=openapi.errors(BadRequest, ModelNotFound),
    )
    async def unload(model_id: str, device: DeviceQuery = None) -> dict[str, Any]:
        """The model's weights leave the device, or all devices, and host memory. Returns when they have left; where
        something is drawn with them, at once, and they leave after it. The next request that names the model loads it
        again."""
        model = services.catalog.resolve(model_id)
        _require_device(services, device, model)
        await services.worker.unload(model.plan, device)
        status = services.worker.models.get(model.plan.key)  # models.yaml may have been read again meanwhile
        state = ModelState.UNLOADED if status is None else status.state
        return {"id": model.id, "object": "model", "state": str(state), **_devices(services, model)}

    @_post(
        routes,
        "/admin/sleep",
        status_code=202,
        summary="Give the device back",
        response_description="It will.",
        responses=openapi.errors(BadRequest),
    )
    async def sleep(device: DeviceQuery = None) -> dict[str, Any]:
        """The worker process of the device, or of each, ends once nothing is drawn, and the next request starts it
        again."""
        _require_device(services, device)
        services.worker.sleep(device)
        return {"worker": {"state": worker_state(services.worker)}, **_workers(services)}

    @_post(
        routes,
        "/admin/wake",
        status_code=202,
        summary="Take the device again",
        response_description="It will.",
        responses=openapi.errors(BadRequest),
    )
    async def wake(device: DeviceQuery = None) -> dict[str, Any]:
        """The worker process of the device, or of each, starts, if it sleeps, and loads the models that have
        `preload`."""
        _require_open(services)
        _require_device(services, device)
        services.worker.wake(device)
        return {"worker": {"state": worker_state(services.worker)}, **_workers(services)}

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


def _require_device(services: Services, device: str | None, model: Model | None = None) -> None:
    """Raise BadRequest for a device that this server does not draw on, or that this model may not be on."""
    if device is None:
        return
    members, names = services.worker.find(device), ", ".join(services.worker.names())
    if not members:
        raise BadRequest(f"device is none that this server draws on: it has {names}.", param="device")
    if model is not None and not any(services.worker.may_draw(member, model.plan) for member in members):
        raise BadRequest(
            f"models.yaml binds {model.id} to {', '.join(model.plan.devices)}: it cannot be on another device.",
            param="device",
        )


def _devices(services: Services, model: Model) -> dict[str, Any]:
    """Where the model is, of each device, where there are several."""
    states = services.worker.states(model.plan)
    return {"devices": states} if len(services.worker.members) > 1 else {}


def _workers(services: Services) -> dict[str, Any]:
    """The state of each device's worker, where there are several."""
    members = services.worker.members
    return {"devices": {member.name: worker_state(member) for member in members}} if len(members) > 1 else {}


def require_admin(request: Request) -> None:
    """Raise AdminRequired for everybody else."""
    principal = getattr(request.state, "principal", None)
    if principal is None or not principal.admin:
        raise AdminRequired(
            "Only an admin key may ask for this: one of `darkroom keys create NAME --admin`, or, on a server without"
            " keys that only this machine reaches, a program on it."
        )


def _require_open(services: Services) -> None:
    if services.queue.draining:
        raise Draining("The server is shutting down.")
