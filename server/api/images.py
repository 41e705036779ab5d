"""Images' routes, where pictures are made: POST …/images/generations, …/images/edits and …/images/variations.

Knows bodies and answers; what happens between them is ``server.api.generation``'s. Knows no model by name; what differs
between models is in models.yaml and pipelines.facts.families.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from server.api import generation, openapi
from server.api.forms import Form, read_form
from server.api.json_body import content_type_of, read_body, require_form
from server.api.prefixes import add_under_both
from server.api.results import answer
from server.api.services import Services
from server.api.stream import streamed
from server.api.submission import Submission
from server.api.wire import ImageFields, read_fields, read_variation
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
        return await _answered(services, request, Submission("generations", await _fields(request)))

    async def edits(request: Request) -> Response:
        """Draw an uploaded picture anew; with a mask, only where it is transparent (or, without alpha, white)."""
        if content_type_of(request) != _MULTIPART:
            fields = await _fields(request)
            if not fields.images:
                raise BadRequest("image is required.", param="image", code="missing_field")
            return await _answered(services, request, Submission("edits", fields))
        form = await _form(services, request)
        submission = Submission("edits", read_fields(form.fields), tuple(form.images), form.mask)
        return await _answered(services, request, submission)

    async def variations(request: Request) -> Response:
        """Draw an uploaded picture anew, without a prompt. No other field than ``image`` is needed."""
        require_form(content_type_of(request))
        form = await _form(services, request)
        if form.mask is not None:
            raise BadRequest("A variation takes no mask; send it to …/images/edits.", param="mask")
        return await _answered(
            services, request, Submission("variations", read_variation(form.fields), tuple(form.images))
        )

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
            responses=openapi.IMAGES,
            openapi_extra={"requestBody": {"required": True, "content": body}},
        )
    return routes


async def _fields(request: Request) -> ImageFields:
    return await read_body(request, read_fields)


async def _form(services: Services, request: Request) -> Form:
    limits = services.limits
    form = await read_form(request, max_files=services.settings.max_input_images, max_file_bytes=limits.max_bytes)
    if not form.images:
        raise BadRequest("image is required.", param="image", code="missing_field")
    return form


async def _answered(services: Services, request: Request, submission: Submission) -> Response:
    if submission.fields.stream:
        return await streamed(services, request, submission, await generation.begin(services, request, submission))
    return await answer(await generation.make(services, request, submission))
