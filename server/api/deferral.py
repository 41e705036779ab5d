"""Deferral: a request with ``Prefer: respond-async`` (RFC 7240) becomes a job on the disk, and is answered 202.

Knows the header, and in which order a submission is examined, kept and answered. It is examined as any other is, its
sources fetched and decoded too: what is wrong with it is answered at once. From there the feeder has it drawn.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import anyio.to_thread
from fastapi import Request, Response

from server.api import specs
from server.api.generation import Files, Generation, examine
from server.api.job_rows import row_of
from server.api.kept import write_request
from server.api.off_loop import off_loop
from server.api.results import wanted, written
from server.api.services import Services
from server.api.submission import Submission, read_candidate
from server.catalog.catalog import Model
from server.edge.disconnect import unless_disconnected
from server.errors import BadRequest, DarkroomError, Draining, IdempotencyMismatch
from server.jobs.accounts import Charge
from server.jobs.admission import Candidate
from server.jobs.backlog import Room, not_kept
from server.jobs.job import new_job_id
from server.jobs.queue import require_any
from server.storage.async_jobs import AsyncJobRow, NameTaken, Source, Telling
from server.storage.database import DatabaseFailed

PREFERENCE = "respond-async"
_ROOM_FACTOR = 2  # a job's request takes half of what is free on the disk at most: pictures go there too


def is_asked(request: Request) -> bool:
    """Does the request prefer an answer before its pictures are there?"""
    preferences = (part for value in request.headers.getlist("prefer") for part in value.split(","))
    return any(part.partition(";")[0].strip().lower() == PREFERENCE for part in preferences)


async def deferred(services: Services, request: Request, submission: Submission) -> Response:
    """The 202 answer, once the job is on the disk. Raises what can be refused at once, JobNotKept among it."""
    name, row = await unless_disconnected(request, _kept(services, request, submission))
    request.state.job_id = name
    job = services.jobs.find(row.principal, name)
    job = job if job is not None and job.kept_as == row.key else None
    answer = await written(row_of(services, name, job, row))
    answer.status_code = 202
    answer.headers["location"] = f"{services.settings.public_url or ''}{submission.prefix}/images/jobs/{name}"
    answer.headers["preference-applied"] = PREFERENCE
    return answer


async def _kept(services: Services, request: Request, submission: Submission) -> tuple[str, AsyncJobRow]:
    if submission.fields.stream:
        param = submission.reading.name("stream")
        raise BadRequest(
            f"{param} and Prefer: respond-async exclude each other: one waits for the pictures, the other does not."
            f" Leave out the header, or send {param}: false.",
            param=param,
        )
    if services.queue.draining:
        raise Draining("The server is shutting down.", retry_after_s=5)
    submission, model = examine(services, request, submission)
    form = wanted(submission, model)
    candidate = await read_candidate(request, submission, model=model, base="", form=form)
    principal = candidate.repeatable.principal
    if not await services.feeder.is_open():
        raise not_kept()
    if (found := await _repeated(services, submission, candidate)) is not None:
        return found.name, found
    payer = candidate.payer
    assert payer is not None
    require_any(payer.limits.jobs)
    with services.backlog.room() as room:
        room.charge = charge = services.accounts.open(payer, model.id, submission.fields.n, new_job_id())
        endpoint = await _endpoint(services, submission, principal)
        generation = Generation(services, submission, model, "")
        with services.budget.hold(principal, of_a_job=True) as hold:
            try:
                files = await generation.read(principal, hold)
                spec, size_bytes = await generation.specify(principal, files)
                hold.take(size_bytes)
                charge.draws(spec.draw_width, spec.draw_height, submission.fields.n, spec.steps)
            except DarkroomError as error:
                raise submission.reading.named(error) from None
            found = await _add(services, submission, candidate, model, files, endpoint, room, charge)
            return found.name, found


async def _add(
    services: Services,
    submission: Submission,
    candidate: Candidate,
    model: Model,
    files: Files,
    endpoint: str,
    room: Room,
    charge: Charge,
) -> AsyncJobRow:
    seeds = specs.make_seeds(submission.fields)
    steering = sum(map(len, files.controls))
    written_request = await off_loop(steering, lambda: write_request(submission, seeds, files.controls))
    sources = [Source(image) for image in files.images]
    sources += [Source(files.mask, is_mask=True)] if files.mask is not None else []
    size = len(written_request) + sum(len(source.data) for source in sources)
    if not await anyio.to_thread.run_sync(_has_room, services.settings.data_dir, size):
        raise not_kept()
    row = AsyncJobRow(
        key=charge.job,
        principal=candidate.repeatable.principal,
        name=candidate.job_id or charge.job,
        model=model.id,
        n=submission.fields.n,
        created=int(time.time()),
        fingerprint=candidate.repeatable.fingerprint,
        size=size,
        megapixel_steps=charge.megapixel_steps,
        idempotency_key=candidate.repeatable.key,
        webhook=submission.fields.webhook,
        endpoint=endpoint,
        telling=Telling.NONE if submission.fields.webhook is None else Telling.WAITING,
    )
    try:
        await services.backlog.add(row, written_request, sources, room)
    except NameTaken:  # by a request that came in the same moment
        found = await _repeated(services, submission, candidate)
        if found is None:
            raise BadRequest("x-job-id names a job that you have already; choose another.", param="x-job-id") from None
        return found
    return row


async def _repeated(services: Services, submission: Submission, candidate: Candidate) -> AsyncJobRow | None:
    """The job that this request asks for once more: its 202 may have been lost. Raises IdempotencyMismatch, and
    BadRequest for an id that another job has."""
    asked = candidate.repeatable
    try:
        found = await services.backlog.table.repeated(
            asked.principal,
            idempotency_key=asked.key,
            name=candidate.job_id,
            fingerprint=asked.fingerprint,
            equal=candidate.is_repeat and not submission.route.startswith("hub"),
            now=int(time.time()),
        )
    except DatabaseFailed:
        raise not_kept() from None
    if found is None or found.fingerprint == asked.fingerprint:
        return found
    if asked.key and found.idempotency_key == asked.key:
        raise IdempotencyMismatch("This Idempotency-Key was sent with another request; a new request needs a new key.")
    raise BadRequest("x-job-id names a job that you have already; choose another.", param="x-job-id")


async def _endpoint(services: Services, submission: Submission, principal: str) -> str:
    """Host and port of the webhook; empty where there is none. Raises BadRequest for one that cannot be told."""
    url = submission.fields.webhook
    if url is None:
        return ""
    endpoint = await services.webhooks.check(url, principal=principal)
    if await anyio.to_thread.run_sync(services.webhook_secrets.get, principal) is None:
        raise BadRequest(
            "webhook: there is no secret to sign with. Whoever runs the server makes one for this key: darkroom keys"
            " webhook-secret NAME (NAME is local where there are no keys).",
            param="webhook",
        )
    return endpoint


def _has_room(folder: Path, size: int) -> bool:
    try:
        return shutil.disk_usage(folder).free >= size * _ROOM_FACTOR
    except OSError:
        return False
