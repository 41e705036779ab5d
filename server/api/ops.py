"""Operations' routes, for whoever runs the server: is it alive, is it ready, what has it done."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.api import openapi
from server.api.services import Services
from server.errors import Unauthorized
from server.jobs.accounts import Accounts
from server.worker.cost import Cost
from server.worker.fleet import Fleet
from server.worker.member import Member
from server.worker.protocol import Graphs
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
        """200 once the worker is up and every model to preload is loaded or known to be broken; with several devices,
        on all that can be used. While one of them is replaced, the others keep it at 200."""
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


def worker_state(worker: Fleet | Member) -> str:
    """asleep, up, failing or starting; of a fleet, that of the member that is best off."""
    if worker.asleep:
        return "asleep"
    if worker.up:
        return "up"
    return "failing" if worker.start_failure else "starting"


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
        if status.loads.cost is not None and status.state is not ModelState.BROKEN:
            models[key]["step"] = _step(status.loads.cost)
        if status.loads.graphs is not None and status.state in (ModelState.READY, ModelState.OFFLOADED):
            models[key]["graphs"] = _graphs(status.loads.graphs)
    servable = any(status.state is not ModelState.BROKEN for status in services.worker.models.values())
    ready = services.worker.settled and servable and not services.queue.draining
    failure = services.worker.start_failure
    problem = services.served.problem
    worker = {"state": worker_state(services.worker)}
    reason = failure or services.worker.device_problem
    return {
        "ready": ready,
        "worker": {**worker, "reason": reason} if reason else worker,
        "device": services.worker.device,
        "devices": [_device(services, member) for member in services.worker.members] + _left_out(services),
        "draining": services.queue.draining,
        "models": models,
        "models_file": {"state": "wrong", "reason": problem} if problem else {"state": "served"},
        "usage": _usage(services.accounts),
    }


def _usage(accounts: Accounts) -> dict[str, Any]:
    """Whether what keys use is written, and if not, why."""
    if not accounts.problem:
        return {"state": "written"}
    return {"state": "in memory", "reason": accounts.problem, "rows": accounts.unwritten}


def _step(cost: Cost) -> dict[str, Any]:
    """What a step costs: fixed_ms + row_ms for each row, of so many pixels."""
    return {
        "fixed_ms": round(cost.fixed_s * 1000, 3),
        "row_ms": round(cost.row_s * 1000, 3),
        "pixels": cost.pixels,
        "most_rows": cost.most_rows,
        "steps": cost.steps,
        "guess": cost.guess,
    }


def _graphs(said: Graphs) -> dict[str, Any]:
    """What became of the CUDA graphs of a model's steps; why there are none, if that is so for all."""
    told: dict[str, Any] = {
        "held": said.held,
        "captured": said.captured,
        "replayed": said.replayed,
        "dropped": said.dropped,
        "refused": said.refused,
        "pool_mib": round(said.pool_bytes / 2**20, 1),
    }
    return {**told, "reason": said.reason} if said.reason else told


def _device(services: Services, member: Member) -> dict[str, Any]:
    """One device: its worker, and where each model is that may be on it."""
    plans, drawings = services.catalog.plans, services.worker.drawings(member)
    said = {
        "name": member.name,
        "device_name": member.device_name,
        "state": worker_state(member),
        "reason": member.start_failure or member.device_problem,
        "drawings": drawings.total(),
        "draws": dict(drawings) or "",
    }
    models = {
        key: str(status.state)
        for key, status in member.models.items()
        if key in plans and services.worker.may_draw(member, plans[key])
    }
    return {**{key: value for key, value in said.items() if value != ""}, "models": models}


def _left_out(services: Services) -> list[dict[str, Any]]:
    return [{"name": name, "state": "left out", "reason": why} for name, why in services.worker.left_out.items()]
