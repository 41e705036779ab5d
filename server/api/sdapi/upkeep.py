"""What AUTOMATIC1111's clients ask of the server itself: its memory, its lists read again, weights unloaded.

Knows who asks. AUTOMATIC1111 has one user, who is its owner; here weights are loaded and unloaded, and models.yaml is
read again, for an admin alone. Anybody else is answered alike, so that no program stops there, and nothing is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import anyio.to_thread
from fastapi import APIRouter, Request

from server.api.allowed import allowed
from server.api.sdapi import models
from server.api.sdapi.choices import ModelChoices
from server.api.services import Services
from server.catalog.catalog import Model
from server.edge.keys import Principal
from server.errors import BadRequest, ConfigError, Draining

_MEMINFO: Final = Path("/proc/meminfo")
_KIB: Final = 1024


def router(services: Services, choices: ModelChoices) -> APIRouter:
    """``memory``, ``refresh-*``, ``unload-checkpoint``, ``reload-checkpoint`` and ``/internal/ping``."""
    routes = APIRouter()

    def current(principal: Principal) -> Model:
        return models.current(services.catalog, choices.of(principal.id), allowed(services.catalog, principal.limits))

    @routes.get("/sdapi/v1/memory")
    async def memory() -> dict[str, Any]:
        ram = await anyio.to_thread.run_sync(_ram)
        # Devices are the workers', which tell what they use and not how large they are.
        return {"ram": ram or {"error": "unavailable"}, "cuda": {"error": "unavailable"}}

    async def refresh(request: Request) -> None:
        if not request.state.principal.admin:
            return  # the server looks by itself, once a second
        try:
            await services.served.reload()
        except ConfigError:
            message = f"{services.served.problem}. What was served before still is."
            raise BadRequest(message, code="invalid_models_file") from None

    for name in ("checkpoints", "vae", "loras"):
        routes.add_api_route(f"/sdapi/v1/refresh-{name}", refresh, methods=["POST"])

    @routes.post("/sdapi/v1/unload-checkpoint")
    async def unload(request: Request) -> dict[str, Any]:
        principal = request.state.principal
        if principal.admin:
            model = current(principal)
            await services.worker.unload(model.plan, None)
        return {}

    @routes.post("/sdapi/v1/reload-checkpoint")
    async def reload(request: Request) -> dict[str, Any]:
        principal = request.state.principal
        if principal.admin:
            if services.queue.draining:
                raise Draining("The server is shutting down.")
            model = current(principal)
            services.worker.require(model.plan.key, model.id)
            await services.worker.load(model.plan, model.id, None)
        return {}

    @routes.get("/internal/ping")
    async def ping() -> dict[str, Any]:
        return {}

    return routes


def _ram() -> dict[str, int] | None:
    """Bytes of this machine's memory; None where it does not tell."""
    try:
        lines = (line.partition(":") for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        kib = {name: int(value.split()[0]) for name, _, value in lines}
        total, free = kib["MemTotal"] * _KIB, kib["MemAvailable"] * _KIB
    except (OSError, ValueError, KeyError, IndexError):  # no Linux
        return None
    return {"free": free, "used": total - free, "total": total}
