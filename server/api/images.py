"""Images' routes, where pictures are made: POST …/images/generations, …/images/edits and …/images/variations.

Knows bodies and answers; what happens between them is ``server.api.generation``'s. Knows no model by name; what differs
between models is in models.yaml and pipelines.facts.families.
"""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request, Response

from server.api import deferral, generation, openapi
from server.api.forms import Form, read_form
from server.api.json_body import content_type_of, read_body, require_form
from server.api.prefixes import add_under_both, prefix_of
from server.api.reader import Reading, read, read_variation
from server.api.results import answer
from server.api.services import Services
from server.api.stream import streamed
from server.api.submission import Submission
from server.errors import ANSWERS, BadRequest, LinkRefused, MethodNotAllowed, NotFound, RangeRefused

_JSON = "application/json"
_MULTIPART = "multipart/form-data"
_ELSEWHERE = (NotFound, LinkRefused, MethodNotAllowed, RangeRefused)  # errors of other routes
ERRORS = openapi.errors(*(kind for kind in ANSWERS if kind not in _ELSEWHERE))


def router(services: Services) -> APIRouter:
    """The routes, under both prefixes that clients use."""
    routes = APIRouter(tags=["images"], dependencies=[openapi.KEY], responses=ERRORS)

    async def generations(request: Request) -> Response:
        """Draw pictures from a prompt; with ``image``, draw them from that picture."""
        reading = await _reading(services, request)
        return await _answered(services, request, _submission(request, "generations", reading))

    async def edits(request: Request) -> Response:
        """Draw an uploaded picture anew; with a mask, only where it is transparent (or, without alpha, white)."""
        if content_type_of(request) != _MULTIPART:
            reading, form = await _reading(services, request), None
        else:
            form = await _form(services, request)
            reading = _of_deployment(services, request, read(form.fields))
        return await _answered(services, request, _submission(request, "edits", reading, form))

    async def variations(request: Request) -> Response:
        """Draw an uploaded picture anew, without a prompt. No other field than ``image`` is needed."""
        require_form(content_type_of(request))
        form = await _form(services, request)
        reading = _of_deployment(services, request, read_variation(form.fields))
        if form.mask is not None or reading.fields.mask is not None:
            param = reading.name("mask")
            raise BadRequest(f"{param} is not for variations, which draw all anew; send it to edits.", param=param)
        return await _answered(services, request, _submission(request, "variations", reading, form))

    for path, endpoint, summary, body in (
        ("generations", generations, "Make pictures", {_JSON: openapi.json_body()}),
        ("edits", edits, "Edit a picture", {_MULTIPART: openapi.form_body(), _JSON: openapi.json_body()}),
        ("variations", variations, "Vary a picture", {_MULTIPART: openapi.variation_body()}),
    ):
        add_under_both(
            routes,
            f"/images/{path}",
            endpoint,
            methods=["POST"],
            summary=summary,
            responses=openapi.IMAGES | openapi.DEFERRED,
            openapi_extra={"parameters": [openapi.PREFER], "requestBody": {"required": True, "content": body}},
        )
    return routes


async def _reading(services: Services, request: Request) -> Reading:
    return _of_deployment(services, request, await read_body(request, read))


def _of_deployment(services: Services, request: Request, reading: Reading) -> Reading:
    """With the model that the path of Azure's clients names. Raises BadRequest where the body names another."""
    named: str | None = getattr(request.state, "deployment", None)
    if named is None:
        return reading
    model = services.catalog.resolve(named)
    if reading.fields.model is None:
        return replace(reading, fields=reading.fields.model_copy(update={"model": named}))
    if services.catalog.resolve(reading.fields.model) is not model:
        param = reading.name("model")
        raise BadRequest(f"{param} is not the one of the deployment in the path; send one.", param=param)
    return reading


async def _form(services: Services, request: Request) -> Form:
    limits = services.limits
    return await read_form(request, max_files=services.settings.max_input_images, max_file_bytes=limits.max_bytes)


def _submission(request: Request, route: str, reading: Reading, form: Form | None = None) -> Submission:
    """Raises BadRequest for an edit or a variation without its picture, and for one that came twice."""
    uploads = () if form is None else tuple(form.images)
    mask = None if form is None else form.mask
    for sent, field, text in ((uploads, "image", reading.fields.images), (mask, "mask", reading.fields.mask)):
        if sent and text:
            param = reading.name(field)
            raise BadRequest(f"Send {param} as a file or as text, not both.", param=param)
    if route != "generations" and not uploads and not reading.fields.images:
        raise BadRequest("image is required.", param="image", code="missing_field")
    return Submission(route, reading, uploads, mask, prefix_of(request.scope["path"]))


async def _answered(services: Services, request: Request, submission: Submission) -> Response:
    if deferral.is_asked(request):
        return await deferral.deferred(services, request, submission)
    if submission.fields.stream:
        return await streamed(services, request, submission, await generation.begin(services, request, submission))
    return await answer(await generation.make(services, request, submission))
