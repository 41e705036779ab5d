"""The route that makes a picture larger, POST …/images/upscale, where LocalAI's and lemonade's clients look for it; and
the list of what does it.

Knows bodies and answers; what happens between them is ``server.api.upscaling``'s.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from pipelines.spec import LANCZOS
from server.api import openapi, upscaling
from server.api.allowed import allowed_upscalers
from server.api.forms import read_form
from server.api.json_body import content_type_of, read_body
from server.api.outcome import Outcome
from server.api.prefixes import add_under_both, prefix_of
from server.api.reader import Reading
from server.api.results import written
from server.api.services import Services
from server.api.upscaling import UpscaleSubmission, read_upscaling
from server.api.wire import ImageFields
from server.catalog.upscalers import MAX_FACTOR, Upscaler
from server.errors import (
    ANSWERS,
    BadRequest,
    LinkRefused,
    MethodNotAllowed,
    NotFound,
    RangeRefused,
    Unauthorized,
)

UPSCALER_HEADER: Final = "x-upscaler"
_MULTIPART = "multipart/form-data"
_ELSEWHERE = (NotFound, LinkRefused, MethodNotAllowed, RangeRefused)  # errors of other routes
_ERRORS = openapi.errors(*(kind for kind in ANSWERS if kind not in _ELSEWHERE))


class UpscaledPicture(BaseModel):
    url: str | None = Field(None, description="with response_format url: signed, expiring, needs no key")
    b64_json: str | None = Field(None, description="with response_format b64_json: the file, as base64")


class UpscaleAnswer(BaseModel):
    created: int = Field(description="when the request began, unix seconds")
    data: list[UpscaledPicture] = Field(description="the picture")
    upscaler: str = Field(description="what enlarged it: a name of GET …/images/upscalers, or lanczos")
    size: str = Field(description="WIDTHxHEIGHT, pixels")
    background: str = Field(description="transparent where the picture is, else opaque")
    output_format: str = Field(description="png, jpeg or webp")
    usage: openapi.Usage


class UpscalerRow(BaseModel):
    id: str = Field(description="what `model` of …/images/upscale may be")
    object: str = Field(description="upscaler")
    network: str | None = Field(description="RRDBNet or SRVGGNetCompact; null: resampling, or a file that is wrong")
    scale: int | None = Field(description="of one pass; any factor is reached by as many as it takes")
    state: str = Field(description="ready, unloaded, loading, offloaded or broken")
    default: bool = Field(description="of requests that name none")


class UpscalersAnswer(BaseModel):
    object: str = Field(description="list")
    data: list[UpscalerRow]


def router(services: Services) -> APIRouter:
    """The routes, under both prefixes that clients use."""
    routes = APIRouter(tags=["images"], dependencies=[openapi.KEY])

    async def upscale(request: Request) -> Response:
        """Make a picture larger: by `scale`, or to `size`. Without a network, by Lanczos, and the answer says so."""
        submission = await _submission(services, request)
        return await answer(await upscaling.make(services, request, submission))

    async def upscalers(request: Request) -> dict[str, Any]:
        """What makes pictures larger here: the networks of models.yaml that your key may use, and Lanczos."""
        found = allowed_upscalers(services.catalog, request.state.principal.limits)
        first = next(iter(services.catalog.upscalers), None)
        rows = [_row(services, each, is_default=name == first) for name, each in found.items()]
        plain = {"id": LANCZOS, "network": None, "scale": None, "state": "ready", "default": first is None}
        return {"object": "list", "data": [*rows, {**plain, "object": "upscaler"}]}

    add_under_both(
        routes,
        "/images/upscale",
        upscale,
        methods=["POST"],
        summary="Make a picture larger",
        responses={200: {"model": UpscaleAnswer, "description": "The picture."}, **_ERRORS},
        openapi_extra={"requestBody": {"required": True, "content": _bodies()}},
    )
    add_under_both(
        routes,
        "/images/upscalers",
        upscalers,
        methods=["GET"],
        summary="List what makes pictures larger",
        response_model=UpscalersAnswer,
        response_description="The upscalers.",
        responses=openapi.errors(Unauthorized),
    )
    return routes


def _row(services: Services, upscaler: Upscaler, *, is_default: bool) -> dict[str, Any]:
    status = services.worker.models.get(upscaler.plan.key)
    state = "unloaded" if status is None else str(status.state)
    return {
        "id": upscaler.name,
        "object": "upscaler",
        "network": None if upscaler.shape is None else str(upscaler.shape.network),
        "scale": None if upscaler.shape is None else upscaler.shape.scale,
        "state": "broken" if upscaler.problem else state,
        "default": is_default,
    }


async def _submission(services: Services, request: Request) -> UpscaleSubmission:
    """Raises BadRequest for a request without its picture, with several, or with one that came twice."""
    uploads: tuple[bytes, ...] = ()
    if content_type_of(request) == _MULTIPART:
        form = await read_form(request, max_files=1, max_file_bytes=services.limits.max_bytes)
        if form.mask is not None:
            raise BadRequest("mask is not for upscaling, which draws nothing anew; leave it out.", param="mask")
        uploads = tuple(form.images)
        reading, scale = read_upscaling(form.fields)
    else:
        reading, scale = await read_body(request, read_upscaling)
    _require_one(reading, uploads)
    return UpscaleSubmission("upscale", reading, uploads, None, prefix_of(request.scope["path"]), scale=scale)


def _require_one(reading: Reading, uploads: tuple[bytes, ...]) -> None:
    texts, name = reading.fields.images, reading.name("image")
    if uploads and texts:
        raise BadRequest(f"Send {name} as a file or as text, not both.", param=name)
    if not uploads and not texts:
        raise BadRequest("image is required.", param="image", code="missing_field")
    if len(uploads) + len(texts) > 1:
        raise BadRequest(f"{name} must be one picture.", param=name)


async def answer(outcome: Outcome) -> Response:
    """The 200 answer, in the shape of other pictures' but for what was drawn."""
    upscaler = outcome.upscaler or LANCZOS
    items = [{key: value for key, value in item.fields().items() if key != "seed"} for item in outcome.items]
    body = {
        "created": outcome.created,
        "data": items,
        "upscaler": upscaler,
        "size": outcome.size,
        "background": outcome.background,
        "output_format": outcome.output_format,
        "usage": outcome.usage,
    }
    response = await written(body)
    response.headers[UPSCALER_HEADER] = upscaler
    return response


def _bodies() -> dict[str, Any]:
    fields = ImageFields.model_json_schema()["properties"]
    shown = {name: fields[name] for name in ("response_format", "output_format", "output_compression")}
    shown["scale"] = {
        "type": "number",
        "exclusiveMinimum": 1,
        "maximum": MAX_FACTOR,
        "description": "how many times as large; this or size",
    }
    shown["size"] = {"type": "string", "description": "WIDTHxHEIGHT; what its shape has too much of is cut off"}
    shown["model"] = {"type": "string", "description": "an id of …/images/upscalers; default: the first, else lanczos"}
    text = {"type": "string", "description": "http(s) URL, data: URL or base64"}
    file = {"type": "string", "format": "binary", "description": "the picture"}
    return {
        "application/json": {"schema": _body({"image": text, **shown})},
        _MULTIPART: {"schema": _body({"image": file, **shown})},
    }


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": ["image"], "properties": properties}
