"""Making pictures: POST …/images/generations and …/images/edits.

Knows the life of a request, in order: fields, permit, pictures in, job, pictures out, answer. Knows no model by
name; what differs between models is in models.yaml and pipelines.families.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from pipelines.plan import DrawJob
from pipelines.spec import Picture
from server.api import described, specs
from server.api.deliver import Delivery, deliver, require_room
from server.api.forms import read_form
from server.api.gather import make_sources, read_sources
from server.api.services import Services
from server.api.wire import ImageRequest, read_json, read_request
from server.catalog import Model
from server.edge.disconnect import unless_disconnected
from server.errors import ANSWERS, BadRequest, LinkRefused, MethodNotAllowed, NotFound, RangeRefused
from server.jobs.job import Job, new_job_id

_PREFIXES = ("/api", "/v1")
_JSON = "application/json"
_MULTIPART = "multipart/form-data"
_ELSEWHERE = (NotFound, LinkRefused, MethodNotAllowed, RangeRefused)  # errors of other routes
_ERRORS = described.errors(*(kind for kind in ANSWERS if kind not in _ELSEWHERE))


def router(services: Services) -> APIRouter:
    """The routes, under both prefixes that clients use."""
    routes = APIRouter(tags=["images"], dependencies=[described.KEY], responses=_ERRORS)

    async def generations(request: Request) -> Response:
        """Draw pictures from a prompt; with ``image``, draw them from that picture."""
        fields = read_request(read_json(await request.body()))
        return await _make(services, request, fields, [], None)

    async def edits(request: Request) -> Response:
        """Draw an uploaded picture anew; with a mask, only where it is transparent (or, without alpha, white)."""
        if not request.headers.get("content-type", "").startswith(_MULTIPART):
            fields = read_request(read_json(await request.body()))
            if not fields.images:
                raise BadRequest("image is required.", param="image", code="missing_field")
            return await _make(services, request, fields, [], None)
        limits = services.limits
        form = await read_form(request, max_files=services.settings.max_input_images, max_file_bytes=limits.max_bytes)
        if not form.images:
            raise BadRequest("image is required.", param="image", code="missing_field")
        return await _make(services, request, read_request(form.fields), form.images, form.mask)

    for prefix in _PREFIXES:
        shown = prefix == _PREFIXES[0]
        for path, endpoint, summary, body in (
            ("generations", generations, "Make pictures", {_JSON: described.json_body()}),
            ("edits", edits, "Edit a picture", {_MULTIPART: described.form_body(), _JSON: described.json_body()}),
        ):
            routes.add_api_route(
                f"{prefix}/images/{path}",
                endpoint,
                methods=["POST"],
                include_in_schema=shown,
                summary=summary,
                responses={200: {"model": described.ImagesAnswer, "description": "The pictures."}},
                openapi_extra={"requestBody": {"required": True, "content": body}},
            )
    return routes


async def _make(
    services: Services,
    request: Request,
    fields: ImageRequest,
    uploads: Sequence[bytes],
    upload_mask: bytes | None,
) -> Response:
    started = int(time.time())
    deadline_s = time.monotonic() + services.settings.job_timeout_s
    model = services.catalog.resolve(fields.model or services.catalog.default)
    services.worker.require(model.plan.key, model.id)  # before its traits are asked: a missing folder has none
    count = len(uploads) or len(fields.images)
    if count > services.settings.max_input_images:
        raise BadRequest(f"image has more than {services.settings.max_input_images} pictures.", param="image")
    specs.check(fields, model, images=count, mask=upload_mask is not None or fields.mask is not None)
    principal = request.state.principal.name
    with services.queue.permit(principal):
        work = _draw(services, fields, model, uploads, upload_mask, principal, deadline_s)
        job, pictures = await unless_disconnected(request, work)
        return await deliver(services, request, Delivery(fields, model, job, pictures, started))


async def _draw(
    services: Services,
    fields: ImageRequest,
    model: Model,
    uploads: Sequence[bytes],
    upload_mask: bytes | None,
    principal: str,
    deadline_s: float,
) -> tuple[Job, tuple[Picture, ...]]:
    images = list(uploads) or await read_sources(services, fields.images, param="image")
    mask = upload_mask
    if mask is None and fields.mask is not None:
        (mask,) = await read_sources(services, [fields.mask], param="mask")
    size, sources = await make_sources(services, fields, model, images, mask)
    spec = specs.make_spec(fields, model, size, sources)
    draw = DrawJob(new_job_id(), model.plan, spec, specs.make_seeds(fields), principal)
    if fields.response_format == "url":
        await require_room(services.store, draw)  # before any device work
    encoding = specs.make_encoding(fields, metadata=services.settings.picture_metadata)
    job = Job(draw, encoding, principal, deadline_s)
    return job, await services.studio.draw(job)
