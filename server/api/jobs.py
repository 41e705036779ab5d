"""Jobs' routes, GET and DELETE …/images/jobs: how far a request's job is, and the way to cancel it.

Knows what a job's row says; a principal sees its own jobs only, an admin that asks for them those of all.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from server.api import openapi
from server.api.admin import require_admin
from server.api.bodies import body_of
from server.api.job_rows import is_expired, row_of
from server.api.kept import answer_bytes, read_outcome
from server.api.prefixes import add_under_both
from server.api.results import base_url, written
from server.api.services import Services
from server.edge.body import hold_of
from server.errors import AdminRequired, JobNotKept, NotFound, Unauthorized
from server.jobs.job import Job
from server.jobs.registry import NO_JOB
from server.storage.async_jobs import AsyncJobRow

AllQuery = Annotated[bool, Query(description="other keys' jobs too, with their names; needs an admin key")]


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["jobs"], dependencies=[openapi.KEY], responses=openapi.errors(Unauthorized))

    async def jobs(request: Request, all: AllQuery = False) -> dict[str, Any]:
        """Your jobs: those that wait or run, those that ended in the last ten minutes, and those of
        `Prefer: respond-async` as long as they are kept. Oldest first."""
        if all:
            require_admin(request)
        principal = None if all else request.state.principal.id
        show = _row_with_key if all else row_of
        kept = {row.key: row for row in await services.backlog.ended(principal)}
        rows, names = [], set()
        for name, job in services.jobs.everyones() if principal is None else services.jobs.jobs(principal):
            held = kept.pop(job.kept_as, None) or services.backlog.row(job.kept_as)
            rows.append(show(services, name, job, held))
            names.add((job.principal, name))
        older = [row for row in kept.values() if (row.principal, row.name) not in names]
        return {"object": "list", "data": [*(show(services, row.name, None, row) for row in older), *rows]}

    async def job(request: Request, job_id: str, all: AllQuery = False) -> Any:
        """How far a job is. Its id is the ``x-job-id`` of the request that it belongs to. One of
        `Prefer: respond-async` that is done has its ``result`` here."""
        if all:
            require_admin(request)
            return _row_with_key(services, job_id, *await _find_anyones(services, request, job_id))
        job, kept = await _find(services, request.state.principal.id, job_id)
        row = row_of(services, job_id, job, kept)
        if kept is None:
            return row
        result = await _result(services, request, kept)
        if result is None and row["result_state"] == "ready":
            row["result_state"] = "gone"
        return await written({**row, "result": result})

    async def cancel(request: Request, job_id: str) -> dict[str, Any]:
        """Stop a job at its next step; the request that waits for it is answered 409. One that has ended stays."""
        principal = request.state.principal.id
        found, kept = await _find(services, principal, job_id)
        if found is None and kept is not None and not kept.state.ended:
            raise JobNotKept("Another server has this job; cancel it there.")
        if found is not None and not found.ended.is_set():
            found.cancel()
            await found.ended.wait()
            found, kept = await _find(services, principal, job_id)
        return row_of(services, job_id, found, kept)

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


def _row_with_key(services: Services, name: str, job: Job | None, kept: AsyncJobRow | None) -> dict[str, Any]:
    """The row, with the name of whose key it is; the id of one that is no more."""
    shown = row_of(services, name, job, kept)
    if job is not None:
        return {**shown, "key": job.payer}
    assert kept is not None
    payer = services.payer_of(kept.principal)
    return {**shown, "key": kept.principal if payer is None else payer.name}


async def _find_anyones(services: Services, request: Request, job_id: str) -> tuple[Job | None, AsyncJobRow | None]:
    """What ``_find`` finds of one's own, or else of whoever has the newest job of this id."""
    own = request.state.principal.id
    try:
        return await _find(services, own, job_id)
    except NotFound:
        other = services.jobs.whose(job_id) or await services.backlog.whose(job_id)
        return await _find(services, other or own, job_id)


async def _find(services: Services, principal: str, job_id: str) -> tuple[Job | None, AsyncJobRow | None]:
    """The job in memory and its row on the disk: one of them, or both. Raises NotFound."""
    kept = await services.backlog.find(principal, job_id, services.jobs.find(principal, job_id))
    job = services.jobs.find(principal, job_id)  # again: one that was lost may have another in its place
    if job is None and kept is None:
        raise NotFound(NO_JOB)
    return job, kept


async def _result(services: Services, request: Request, kept: AsyncJobRow) -> dict[str, Any] | None:
    """The answer of the job's own route, with its pictures; None where there is none, or none any more."""
    if kept.result is None or kept.expires is None or is_expired(kept):
        return None
    hold_of(request.scope).take(answer_bytes(kept.result))
    found = await read_outcome(services, kept.result, base_url(services, request), kept.expires)
    return None if found is None else body_of(*found)
