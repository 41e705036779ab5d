"""From a checked request to its pictures: what every route that makes pictures goes through.

Knows the life of a request, in order: model, permit, job, pictures in, turn, pictures out. Knows neither bodies nor
answers: a route turns the first into an Submission, and an Outcome into the second.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from pipelines.plan import Drawing
from server.api import specs
from server.api.off_loop import off_loop
from server.api.results import Outcome, base_url, deliver, require_room, wanted
from server.api.services import Services
from server.api.sources import make_sources, read_sources
from server.api.wire import ImageFields
from server.catalog.catalog import Model
from server.edge.disconnect import unless_disconnected
from server.errors import BadRequest, KeyLimit
from server.jobs.job import Job
from server.jobs.repeats import Repeatable
from server.jobs.work import Work

_MAX_WAITING = 16  # requests for one job
_MAX_KEY = 255  # characters of an Idempotency-Key
_CHOSEN_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


@dataclass(frozen=True)
class Submission:
    """One request, as its route read it."""

    route: str  # generations, edits or variations
    fields: ImageFields
    uploads: tuple[bytes, ...] = ()  # source pictures that came as files
    mask: bytes | None = None  # a mask that came as a file

    @property
    def size_bytes(self) -> int:
        """About all that it carries: pictures, as files or as texts."""
        texts = (*self.fields.images, self.fields.mask or "")
        return sum(map(len, (*self.uploads, self.mask or b""))) + sum(map(len, texts))


async def make(services: Services, request: Request, submission: Submission) -> Outcome:
    """Begin, and wait for the end. A client that leaves meanwhile ends what nobody else waits for."""
    work = await begin(services, request, submission)
    with work.attended():
        return await unless_disconnected(request, work.outcome())


async def begin(services: Services, request: Request, submission: Submission) -> Work[Outcome]:
    """Join a submission to its first, or admit it and start on it. Raises what can be refused at once.

    Whoever begins must wait with ``Work.attended``: what nobody attends goes on for nobody.
    """
    model = _check(services, submission)
    principal = request.state.principal.name
    base = base_url(services, request)
    chosen = _chosen_id(request)
    fingerprint = await off_loop(submission.size_bytes, lambda: _fingerprint(submission, base))
    # No more waiting from here on: between looking for a first and becoming one, nobody may come.
    repeatable = Repeatable(principal, fingerprint, _idempotency_key(request))
    joinable = _joinable(services, submission, request, repeatable, chosen)
    first = services.repeats.find(repeatable, joinable)
    if first is not None:
        return _join(services, request, first, chosen)
    if chosen:
        services.jobs.require_free(principal, chosen)
    permit = contextlib.ExitStack()
    permit.enter_context(services.queue.permit(principal))
    job = Job(principal, model.id, time.monotonic() + services.settings.job_timeout_s, id=chosen)
    services.jobs.add(job)
    request.state.job_id = job.id
    work = Work(job, _work(services, submission, model, job, base), permit.close)
    services.repeats.add(repeatable, work)
    return work


def _joinable(
    services: Services, submission: Submission, request: Request, repeatable: Repeatable, chosen: str
) -> Callable[[Work[Outcome]], bool]:
    """Which equal work that goes on this request may join: what it repeats, or what must come out alike.

    Without a seed, equal requests at once may be a client's way to get several pictures: the ai package sends n
    requests where a model makes one at a time.
    """
    is_repeat = (
        bool(repeatable.key)
        or submission.fields.seed is not None
        or submission.route.startswith("hub")  # its clients send again after 60 s, and say nothing of it
        or request.headers.get("x-stainless-retry-count", "0") != "0"  # OpenAI's SDKs do
    )
    return lambda work: is_repeat or (bool(chosen) and services.jobs.has(work.job, chosen))


def _join(services: Services, request: Request, first: Work[Outcome], chosen: str) -> Work[Outcome]:
    """The job is found under the id that this client chose, too."""
    if first.waiting >= _MAX_WAITING:  # each holds its body, and no permit
        raise KeyLimit(
            f"{_MAX_WAITING} requests wait for this same picture already.",
            retry_after_s=services.queue.retry_after_s(),
        )
    job = first.job
    if chosen and not services.jobs.has(job, chosen):
        services.jobs.require_free(job.principal, chosen)
        services.jobs.add(job, chosen)
    request.state.job_id = chosen or job.id
    return first


def _check(services: Services, submission: Submission) -> Model:
    fields = submission.fields
    model = services.catalog.resolve(fields.model or services.catalog.default)
    services.worker.require(model.plan.key, model.id)
    try:
        _check_fields(services, submission, model)
    except BadRequest:
        services.worker.require(model.plan.key, model.id, retry=False)  # a missing folder has no traits to go by
        raise
    return model


def _check_fields(services: Services, submission: Submission, model: Model) -> None:
    fields = submission.fields
    count = len(submission.uploads) or len(fields.images)
    if count > services.settings.max_input_images:
        raise BadRequest(f"image has more than {services.settings.max_input_images} pictures.", param="image")
    if submission.route != "variations" and not fields.prompt.strip():
        raise BadRequest("prompt must not be empty.", param="prompt")
    specs.check(fields, model, images=count, mask=submission.mask is not None or fields.mask is not None)


def _chosen_id(request: Request) -> str:
    """The job's id as the client wants it, so that it can ask how far it is while it waits; empty: as we like."""
    sent = request.headers.getlist("x-job-id")
    if not sent:
        return ""
    if len(sent) > 1 or not _CHOSEN_ID.fullmatch(sent[0]):
        raise BadRequest("x-job-id must have 8 to 64 of A-Z, a-z, 0-9, _ and -.", param="x-job-id")
    return sent[0]


def _idempotency_key(request: Request) -> str:
    sent = request.headers.getlist("idempotency-key")
    if len(sent) > 1:
        raise BadRequest("Idempotency-Key is sent twice.", param="Idempotency-Key")
    if sent and len(sent[0]) > _MAX_KEY:
        raise BadRequest(f"Idempotency-Key has more than {_MAX_KEY} characters.", param="Idempotency-Key")
    return sent[0] if sent else ""


def _fingerprint(submission: Submission, base: str) -> bytes:
    """Alike for the same request: same route, same fields, same files, and URLs that begin alike."""
    fields = submission.fields.model_dump_json()
    parts = (submission.route.encode(), base.encode(), fields.encode(), *submission.uploads)
    digest = hashlib.sha256()
    for part in (*parts, *(() if submission.mask is None else (b"mask", submission.mask))):
        digest.update(hashlib.sha256(part).digest())
    return digest.digest()


async def _work(services: Services, submission: Submission, model: Model, job: Job, base: str) -> Outcome:
    with services.runner.ending(job):
        drawing = await _prepare(services, submission, model, job)
        services.runner.prepared(job, drawing)
        encoding = specs.make_encoding(submission.fields, metadata=services.settings.picture_metadata)
        finished = await services.runner.draw(job, drawing, encoding)
        return await deliver(services, submission.fields, model, job, drawing, finished, base)


async def _prepare(services: Services, submission: Submission, model: Model, job: Job) -> Drawing:
    fields = submission.fields
    images = list(submission.uploads) or await read_sources(services, job.principal, fields.images, param="image")
    mask = submission.mask
    if mask is None and fields.mask is not None:
        (mask,) = await read_sources(services, job.principal, [fields.mask], param="mask")
    holes = submission.route != "variations"
    size, sources = await make_sources(services, job.principal, fields, model, images, mask, holes=holes)
    spec = specs.make_spec(fields, model, size, sources)
    previews = fields.partial_images if fields.stream else 0
    drawing = Drawing(job.key, model.plan, spec, specs.make_seeds(fields), job.principal, previews)
    form = wanted(fields, model)
    if form.url and not form.spare_url:
        await require_room(services.store, drawing)  # before any device work
    return drawing
