"""Generation: from a submission to its outcome, as every route that makes pictures goes through it.

Knows what each part of a request's life needs, in order: the model, admission, sources and spec, results. Knows
neither bodies nor answers: a route turns the first into a Submission, and an Outcome into the second. When each part
has its time is ``server.jobs``' to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fastapi import Request

from pipelines.plan import Drawing
from pipelines.spec import Encoding, ImageSpec
from server.api import control_fields, specs
from server.api.outcome import Outcome
from server.api.reader import MAX_IGNORED
from server.api.results import base_url, make_outcome, require_room, wanted
from server.api.services import Services
from server.api.sources import Size, make_controls, make_sources, most_bytes, read_sources
from server.api.specs import Sources
from server.api.submission import Submission, read_candidate
from server.catalog.catalog import Model
from server.edge.body import hold_of
from server.edge.disconnect import unless_disconnected
from server.errors import BadRequest, DarkroomError
from server.jobs.admission import Admitted
from server.jobs.budget import Hold
from server.jobs.further import Further
from server.jobs.job import Job
from server.jobs.limits import Limits
from server.worker.protocol import Finished

HUB_FLAT_COPIES = 6  # of each picture: its clients read it under three names, in two arrays
_ROOM_S = 10.0  # for which a job waits until there is room for its sources


async def make(services: Services, request: Request, submission: Submission) -> Outcome:
    """Begin, and wait for the end. A client that leaves meanwhile ends what nobody else waits for.

    The outcome's answer has its place in the budget of bytes then. Raises Busy where a repeat finds none.
    """
    return await finish(request, submission, await begin(services, request, submission))


async def finish(request: Request, submission: Submission, admitted: Admitted[Outcome]) -> Outcome:
    """Wait for the end of what ``begin`` began, as ``make`` does."""
    with admitted.work.waiter():
        outcome = await unless_disconnected(request, admitted.work.outcome())
    copies = HUB_FLAT_COPIES if submission.route == "hub flat" else 1
    hold_of(request.scope).take(outcome.answer_bytes * copies, owed=admitted.first)
    return outcome


async def begin(
    services: Services, request: Request, submission: Submission, assign: Assign | None = None
) -> Admitted[Outcome]:
    """Check a submission and have it admitted. Raises what can be refused at once.

    ``assign`` makes the assignment of a route that draws in a way of its own; default: ``Generation``.
    Whoever begins must wait with ``Work.waiter``: nothing else cancels work that nobody wants.
    """
    if submission.fields.webhook is not None:
        raise BadRequest(
            "webhook is for jobs that nobody waits for: send the header Prefer: respond-async with it.", param="webhook"
        )
    submission, model = examine(services, request, submission)
    base, form = base_url(services, request), wanted(submission, model)
    candidate = await read_candidate(request, submission, model=model, base=base, form=form)
    admitted = services.admission.admit(candidate, (assign or Generation)(services, submission, model, base))
    request.state.job_id = admitted.job_id
    return admitted


def examine(services: Services, request: Request, submission: Submission) -> tuple[Submission, Model]:
    """The submission with what its model makes of it, and that model; the answer will tell what is ignored. Raises what
    can be refused before any picture is read."""
    reading = submission.reading
    request.state.ignored_fields = reading.ignored
    model = find_model(services, submission, request.state.principal.limits)
    mask = submission.mask is not None or submission.fields.mask is not None
    unused = specs.unused(submission.fields, model, edit=submission.is_edit, mask=mask)
    told = (reading.names[field] for field in unused if field in reading.names)
    request.state.ignored_fields = (*reading.ignored, *told)[:MAX_IGNORED]
    return _with_edit_size(submission, model), model


def find_model(services: Services, submission: Submission, limits: Limits) -> Model:
    """The model that a submission names. Raises the error of a model or of fields that cannot be drawn, or that its
    key may not use."""
    try:
        return _check(services, submission, limits)
    except DarkroomError as error:
        raise submission.reading.named(error) from None


class Files(NamedTuple):
    """The files of a request."""

    images: list[bytes]  # source pictures
    mask: bytes | None
    controls: list[bytes]  # what ControlNets steer by


@dataclass(frozen=True)
class Generation:
    """The assignment of one job: what the runner asks of ``api`` before and after the drawing."""

    services: Services
    submission: Submission
    model: Model
    base: str  # how the pictures' URLs begin
    decided: tuple[int, ...] | None = None  # the pictures' seeds, where they were decided before

    @property
    def encoding(self) -> Encoding:
        return specs.make_encoding(self.submission.fields, self.services.settings)

    async def prepare(self, job: Job) -> Drawing:
        """Pictures in, and every choice made. Raises the error of the first field that stands in the way."""
        try:
            return await self._prepare(job)
        except DarkroomError as error:
            raise self.submission.reading.named(error) from None

    async def _prepare(self, job: Job) -> Drawing:
        services, submission = self.services, self.submission
        with services.budget.hold(job.principal, of_a_job=True) as reading:
            files = await self.read(job.principal, reading)
            spec, size_bytes = await self.specify(job.principal, files)
            job.take(size_bytes)
        drawing = Drawing(job.key, self.model.plan, spec, self.seeds, job.principal, self.previews)
        form = wanted(submission, self.model)
        if form.url and not form.spare_url:
            await require_room(services.store, drawing)  # before any device work
        return drawing

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.decided or specs.make_seeds(self.submission.fields)

    @property
    def previews(self) -> int:
        """How many times the picture is shown on its way."""
        fields = self.submission.fields
        return fields.partial_images if fields.stream else 0

    async def read(self, principal: str, hold: Hold) -> Files:
        """The files of the request; what was sent as URL or text is read."""
        services, submission, fields = self.services, self.submission, self.submission.fields
        texts = [] if submission.uploads else fields.images
        masks = [fields.mask] if submission.mask is None and fields.mask is not None else []
        steering = submission.control_images
        await hold.wait(most_bytes(services, [*texts, *masks, *steering]), within_s=_ROOM_S)
        images = list(submission.uploads) or await read_sources(services, principal, texts, param="image")
        mask = submission.mask
        if masks:
            (mask,) = await read_sources(services, principal, masks, param="mask")
        controls: list[bytes] = []
        for number, text in enumerate(steering):
            controls += await read_sources(services, principal, [text], param=control_fields.param(number, "image"))
        return Files(images, mask, controls)

    async def specify(self, principal: str, files: Files) -> tuple[ImageSpec, int]:
        """The spec, in which everything is decided, and how many bytes its pictures have."""
        size, sources = await self.arrange(principal, files.images, files.mask)
        if files.controls:
            steered = await make_controls(self.services, principal, files.controls, size, sources.window)
            sources = replace(sources, controls=steered)
        return self.make_spec(size, sources), sources.size_bytes

    async def arrange(self, principal: str, images: Sequence[bytes], mask: bytes | None) -> tuple[Size, Sources]:
        """The size of the pictures in pixels, and the sources as that size needs them."""
        holes = self.submission.route != "variations"
        return await make_sources(
            self.services, principal, self.submission.fields, self.model, images, mask, holes=holes
        )

    def make_spec(self, size: Size, sources: Sources) -> ImageSpec:
        submission, fields = self.submission, self.submission.fields
        varied = submission.route == "variations" and "strength" not in submission.reading.names
        return specs.make_spec(fields, self.model, size, sources, varied=varied and fields.strength is not None)

    async def follow(self, job: Job, drawing: Drawing, finished: Finished) -> tuple[Further, ...]:
        return ()

    def to_follow(self, drawing: Drawing) -> float:
        return 0.0

    async def deliver(self, job: Job, drawing: Drawing, finished: Finished) -> Outcome:
        """Pictures out. They are the server's to keep until their answer takes over, whatever else is held."""
        job.take(sum(len(picture.data) for picture in finished.pictures), owed=True)
        return await make_outcome(self.services, self.submission, self.model, job, drawing, finished, self.base)


Assign = Callable[[Services, Submission, Model, str], Generation]


def _with_edit_size(submission: Submission, model: Model) -> Submission:
    """With the size of an edit that names none."""
    fields = submission.fields
    if submission.route != "edits" or fields.size is not None or fields.aspect_ratio is not None:
        return submission
    size = model.edit_size(fields.model or "", contract=submission.contract)
    fields = fields.model_copy(update={"size": size})
    return replace(submission, reading=replace(submission.reading, fields=fields))


def _check(services: Services, submission: Submission, limits: Limits) -> Model:
    """The model that a submission names. Raises the error of a model or of fields that cannot be drawn, or that its
    key may not use."""
    model = submission.model_in(services.catalog, limits)
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
    if submission.needs_prompt and not fields.prompt.strip():
        raise BadRequest("prompt must not be empty.", param="prompt")
    specs.check(fields, model, images=count, mask=submission.mask is not None or fields.mask is not None)
