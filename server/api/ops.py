"""Operations' routes, for whoever runs the server: is it alive, is it ready, what has it done."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.api import openapi
from server.api.services import Services
from server.errors import Unauthorized
from server.worker.status import ModelState

_NO_KEY = openapi.errors(Unauthorized)


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    @routes.head("/livez", include_in_schema=False)
    @routes.get("/livez", summary="Is it alive?", response_description="It is.")
    async def livez() -> dict[str, str]:
        """The front answers. Says nothing of workers or models."""
        return {"status": "ok"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get(
        "/readyz",
        summary="May it be sent requests?",
        response_description="Yes.",
        responses={503: {"description": "Not yet, or no more."}},
    )
    async def readyz() -> JSONResponse:
        """200 once the worker is up and every model to preload is loaded or known to be broken."""
        body = readiness(services)
        return JSONResponse(body, status_code=200 if body["ready"] else 503)

    @routes.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        dependencies=[openapi.KEY],
        responses={200: {"description": "The metrics.", "content": {"text/plain": {}}}, **_NO_KEY},
    )
    async def metrics() -> Response:
        """Counters and times since start, in Prometheus' text format."""
        services.metrics.queue_jobs.labels("queued").set(services.queue.queued)
        services.metrics.queue_jobs.labels("running").set(services.queue.running)
        return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def worker_state(services: Services) -> str:
    """asleep, up, failing or starting."""
    if services.worker.asleep:
        return "asleep"
    if services.worker.up:
        return "up"
    return "failing" if services.worker.start_failure else "starting"


def readiness(services: Services) -> dict[str, Any]:
    """What /readyz says: the models by name, and why those that cannot be served cannot."""
    models: dict[str, Any] = {}
    for key, status in services.worker.models.items():
        models[key] = {"state": str(status.state)}
        if status.reason:
            models[key]["reason"] = status.reason
        if status.shared is not None:
            models[key]["shared"] = status.shared
        if status.unshared_reason:
            models[key]["unshared_reason"] = status.unshared_reason
    servable = any(status.state is not ModelState.BROKEN for status in services.worker.models.values())
    ready = services.worker.settled and servable and not services.queue.draining
    failure = services.worker.start_failure
    problem = services.served.problem
    worker = {"state": worker_state(services)}
    reason = failure or services.worker.device_problem
    return {
        "ready": ready,
        "worker": {**worker, "reason": reason} if reason else worker,
        "device": services.worker.device,
        "draining": services.queue.draining,
        "models": models,
        "models_file": {"state": "wrong", "reason": problem} if problem else {"state": "served"},
    }
