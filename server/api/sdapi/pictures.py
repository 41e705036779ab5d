"""The routes that draw, POST txt2img and img2img, and what is said of them meanwhile: progress, interrupt and skip.

Knows bodies and answers; what happens between them is ``server.api.generation``'s, as for every other route.
"""

from __future__ import annotations

from typing import Any, Final

import anyio.to_thread
import msgspec
from fastapi import APIRouter, Request, Response

from pipelines.spec import Picture
from server.api import generation
from server.api.allowed import allowed, allowed_upscalers
from server.api.json_body import read_body
from server.api.results import written
from server.api.sdapi import infotext, models
from server.api.sdapi.assignment import A1111Generation
from server.api.sdapi.choices import ModelChoices
from server.api.sdapi.fields import A1111Fields, read_fields
from server.api.sdapi.live import LiveJob, LiveJobs, Newest
from server.api.sdapi.png_text import with_text
from server.api.sdapi.translation import A1111Submission, OpenModels, translate
from server.api.services import Services
from server.catalog.catalog import Model
from server.edge.body import hold_of
from server.errors import Busy, JobCancelled, ModelForbidden, ModelNotFound
from server.jobs.budget import Hold

_YES: Final = frozenset({"true", "1", "yes", "on"})
_IDLE: Final[dict[str, Any]] = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}


def router(services: Services, choices: ModelChoices) -> APIRouter:
    routes = APIRouter(prefix="/sdapi/v1")
    live, open_models = LiveJobs(), OpenModels()

    async def draw(request: Request, *, edit: bool) -> Response:
        fields = await read_body(request, read_fields, may_be_empty=True)
        model = open_models.of(_model(services, choices, request, fields))
        networks = allowed_upscalers(services.catalog, request.state.principal.limits)
        return await _drawn(services, request, live, translate(fields, model, edit=edit, networks=networks))

    @routes.post("/txt2img")
    async def txt2img(request: Request) -> Response:
        return await draw(request, edit=False)

    @routes.post("/img2img")
    async def img2img(request: Request) -> Response:
        return await draw(request, edit=True)

    @routes.get("/progress")
    async def progress(request: Request, skip_current_image: str = "") -> Response:
        """How far this key's oldest job is, and what its first picture looks like."""
        job = live.oldest(request.state.principal.id)
        shown = skip_current_image.strip().lower() not in _YES
        return await written(_progress(services, request, job, shown=shown))

    @routes.post("/interrupt")
    async def interrupt(request: Request) -> dict[str, Any]:
        """End this key's jobs of these routes; each is answered with its unfinished pictures."""
        live.interrupt(request.state.principal.id)
        return {}

    @routes.post("/skip")
    async def skip(request: Request) -> None:
        """As interrupt: all pictures of a job are drawn at once."""
        live.interrupt(request.state.principal.id)

    return routes


async def _drawn(services: Services, request: Request, live: LiveJobs, submission: A1111Submission) -> Response:
    asked = submission.asked

    def assign(services_: Services, _: object, model: Model, base: str) -> A1111Generation:
        return A1111Generation(services_, submission, model, base)

    admitted = await generation.begin(services, request, submission, assign)
    job = LiveJob(
        f"scripts_{submission.route}",
        admitted.work.job,
        Newest(hold_of(request.scope)),
        asked.fields.n_iter,
        1 if asked.hires is None else 2,
    )
    with live.following(job):
        try:
            outcome = await generation.finish(request, submission, admitted)
        except JobCancelled:
            if not job.is_interrupted:
                raise
            unfinished = await _unfinished(services, submission, job, hold_of(request.scope))
            return await _answer(submission, job.seeds or asked.seeds, unfinished, job)
    return await _answer(
        submission, [item.seed for item in outcome.items], [item.data or b"" for item in outcome.items], job
    )


async def _answer(submission: A1111Submission, seeds: Any, pictures: list[bytes], job: LiveJob) -> Response:
    fields = submission.asked.fields
    return await written(
        {
            "images": pictures if fields.send_images else [],
            "parameters": fields.echo(edit=submission.route == "img2img"),
            "info": infotext.info(submission, seeds, job.job.created),
        }
    )


async def _unfinished(services: Services, submission: A1111Submission, job: LiveJob, hold: Hold) -> list[bytes]:
    """The pictures as they were when they were interrupted; none, as A1111 has it, where nothing was to be seen yet."""
    seeds = job.seeds or submission.asked.seeds

    def finished() -> tuple[Picture, ...]:
        if not services.settings.picture_metadata:
            return job.pictures
        texts = (infotext.infotext(submission, seeds[each.index]) for each in job.pictures)
        return tuple(
            msgspec.structs.replace(each, data=with_text(each.data, "parameters", text))
            for each, text in zip(job.pictures, texts, strict=True)
        )

    pictures = await anyio.to_thread.run_sync(finished)
    if services.credentials is not None and pictures:
        pictures = await services.credentials.sign(pictures, edited=submission.is_edit)
    made = [picture.data for picture in pictures]
    hold.take(sum(map(len, made)) * 7 // 3, owed=True)  # the files, and their base64
    return made


def _model(services: Services, choices: ModelChoices, request: Request, fields: A1111Fields) -> Model:
    """The override's model, else the one in the body, else the one that the key has chosen, else the server's own."""
    principal = request.state.principal
    chosen, ids = choices.of(principal.id), allowed(services.catalog, principal.limits)
    override = fields.override_settings.get("sd_model_checkpoint")
    for name, param in ((override, "override_settings"), (fields.model, "model")):
        if models.text_of(name).lower() in models.CURRENT:
            continue
        try:
            return models.find(services.catalog, name, chosen, ids)
        except (ModelNotFound, ModelForbidden) as error:
            error.param = param
            raise
    return models.current(services.catalog, chosen, ids)


def _progress(services: Services, request: Request, job: LiveJob | None, *, shown: bool) -> dict[str, Any]:
    if job is None:
        state = {**_IDLE, "job_timestamp": "0"}
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    pictures = job.feed.pictures if shown else []
    data = pictures[0].data if pictures else None
    try:
        hold_of(request.scope).take(len(data or b"") * 4 // 3)
    except Busy:
        data = None
    return {
        "progress": job.progress,
        "eta_relative": services.jobs.standing(job.job).eta_s or 0.0,
        "state": {**job.state(), "job_timestamp": infotext.timestamp(job.job.created)},
        "current_image": data,
        "textinfo": None,
    }
