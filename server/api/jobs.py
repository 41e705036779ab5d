"""Jobs' routes, GET and DELETE …/images/jobs: how far a request's job is, and the way to cancel it.

Knows what a job's row says; a principal sees its own jobs only.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from server.api import openapi
from server.api.prefixes import add_under_both
from server.api.services import Services
from server.errors import NotFound, Unauthorized
from server.jobs.job import Job


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["jobs"], dependencies=[openapi.KEY], responses=openapi.errors(Unauthorized))

    async def jobs(request: Request) -> dict[str, Any]:
        """Your jobs: those that wait or run, and those that ended in the last ten minutes. Oldest first."""
        principal = request.state.principal.id
        return {"object": "list", "data": [_row(services, name, job) for name, job in services.jobs.jobs(principal)]}

    async def job(request: Request, job_id: str) -> dict[str, Any]:
        """How far a job is. Its id is the ``x-job-id`` of the request that it belongs to."""
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
