"""Jobs' routes, GET and DELETE …/images/jobs: how far a request's job is, and the way to cancel it.

Knows what a job's row says; a principal sees its own jobs only, an admin that asks for them those of all.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from server.api import openapi
from server.api.admin import require_admin
from server.api.prefixes import add_under_both
from server.api.services import Services
from server.errors import AdminRequired, NotFound, Unauthorized
from server.jobs.job import Job

AllQuery = Annotated[bool, Query(description="other keys' jobs too, with their names; needs an admin key")]


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["jobs"], dependencies=[openapi.KEY], responses=openapi.errors(Unauthorized))

    async def jobs(request: Request, all: AllQuery = False) -> dict[str, Any]:
        """Your jobs: those that wait or run, and those that ended in the last ten minutes. Oldest first."""
        if all:
            require_admin(request)
            rows = [{**_row(services, name, job), "key": job.payer} for name, job in services.jobs.everyones()]
            return {"object": "list", "data": rows}
        principal = request.state.principal.id
        return {"object": "list", "data": [_row(services, name, job) for name, job in services.jobs.jobs(principal)]}

    async def job(request: Request, job_id: str, all: AllQuery = False) -> dict[str, Any]:
        """How far a job is. Its id is the ``x-job-id`` of the request that it belongs to."""
        if all:
            require_admin(request)
            found = services.jobs.find(request.state.principal.id, job_id)
            return {**_row(services, job_id, found), "key": found.payer}
        return _row(services, job_id, services.jobs.get(request.state.principal.id, job_id))

    async def cancel(request: Request, job_id: str) -> dict[str, Any]:
        """Stop a job at its next step; the request that waits for it is answered 409. One that has ended stays."""
        found = services.jobs.get(request.state.principal.id, job_id)
        if not found.ended.is_set():
            found.cancel()
            await found.ended.wait()
        return _row(services, job_id, found)

    for path, endpoint, method, summary, answer in (
        ("jobs", jobs, "GET", "List your jobs", openapi.JobsAnswer),
        ("jobs/{job_id}", job, "GET", "How far is a job?", openapi.JobAnswer),
        ("jobs/{job_id}", cancel, "DELETE", "Cancel a job", openapi.JobAnswer),
    ):
        add_under_both(
            routes,
            f"/images/{path}",
            endpoint,
            methods=[method],
            summary=summary,
            response_model=None,
            responses={
                200: {"model": answer, "description": "The jobs." if path == "jobs" else "The job."},
                **({} if path == "jobs" else openapi.errors(NotFound)),
                **({} if method == "DELETE" else openapi.errors(AdminRequired)),
            },
        )
    return routes


def _row(services: Services, name: str, job: Job) -> dict[str, Any]:
    standing = services.jobs.standing(job)
    error = None
    if job.error is not None:
        answer = job.error.answer
        error = {"message": job.error.message, "type": answer.type, "param": job.error.param, "code": job.error.code}
    return {
        "id": name,
        "object": "image.job",
        "status": str(standing.state),
        "created": job.created,
        "model": job.model,
        "place": standing.place,
        "eta_s": standing.eta_s,
        "progress": {"done": standing.done, "of": standing.of},
        "error": error,
    }
