"""The extras' routes: pictures made larger, and what a picture says about how it was made.

Knows bodies and answers; what is done to pixels ``upscaling`` knows, and what texts say ``infotext_reading``. Pictures
come as everywhere, by ``server.inputs``, and all work on them is done on its threads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from server.api import upscaling
from server.api.json_body import read_body
from server.api.reader import Reading
from server.api.results import written
from server.api.sdapi import infotext_reading
from server.api.sdapi.ignored import plain_names, tell_ignored
from server.api.sdapi.upscaling import MAX_FACTOR, Upscaling, read_upscaling, sizes, upscaled
from server.api.services import Services
from server.api.sources import most_bytes
from server.api.upscaling import UpscaleSubmission
from server.api.wire import ImageFields
from server.edge.body import hold_of
from server.errors import BadRequest
from server.inputs.source import read_source
from server.inputs.texts import read_texts

_PARAMETERS = ("parameters", "UserComment", "Description")  # where a picture's infotext may stand, PNG's key first


def router(services: Services) -> APIRouter:
    """``/sdapi/v1/extra-single-image``, ``extra-batch-images`` and ``png-info``."""
    routes = APIRouter()

    @routes.post("/sdapi/v1/extra-single-image")
    async def single(request: Request) -> Response:
        sent = await read_body(request, dict, may_be_empty=True)
        how = _how(services, request, sent)
        (made,) = await _upscaled(services, request, {"image": _text(sent.get("image"), "image")}, how)
        return await written({"html_info": how.told, "image": made})

    @routes.post("/sdapi/v1/extra-batch-images")
    async def batch(request: Request) -> Response:
        sent = await read_body(request, dict, may_be_empty=True)
        how = _how(services, request, sent)
        made = await _upscaled(services, request, _texts_of(sent, services.settings.max_input_images), how)
        return await written({"html_info": how.told, "images": made})

    @routes.post("/sdapi/v1/png-info")
    async def png_info(request: Request) -> dict[str, Any]:
        sent = await read_body(request, dict, may_be_empty=True)
        text = _text(sent.get("image"), "image")
        decoding = services.decoders.decoding(request.state.principal.id)
        hold_of(request.scope).take(most_bytes(services, [text]))
        data = await _read(services, request, text, "image")
        items = await decoding.run(functools.partial(read_texts, data, param="image"), param="image")
        found = next((items[key] for key in _PARAMETERS if items.get(key)), "")
        info = infotext_reading.infotext(found)
        return {"info": info, "items": items, "parameters": infotext_reading.parsed(info) if info else {}}

    return routes


def _how(services: Services, request: Request, sent: Mapping[str, Any]) -> Upscaling:
    how = read_upscaling(sent, services.catalog.upscalers)
    tell_ignored(request, how.ignored)
    return how


async def _upscaled(services: Services, request: Request, texts: Mapping[str, str], how: Upscaling) -> list[bytes]:
    """A PNG of each picture, in order. Their results together have no more pixels than one source may have."""
    decoding = services.decoders.decoding(request.state.principal.id)
    hold = hold_of(request.scope)
    left, made = services.limits.max_pixels, []
    for param, text in texts.items():
        most = most_bytes(services, [text])
        hold.take(most)
        data = await _read(services, request, text, param)
        bounds: dict[str, Any] = {"limits": services.limits, "most_pixels": left, "param": param}
        by_network = {}
        if how.networks:
            was, size = await decoding.run(functools.partial(sizes, data, how, **bounds), param=param)
            if max(size[0] / was[0], size[1] / was[1]) > 1:
                by_network = {
                    name: await _by_network(services, request, name, data, size, how) for name in how.networks
                }
        work = functools.partial(upscaled, data, how, by_network=by_network, **bounds)
        picture = await decoding.run(work, param=param)
        if services.credentials is not None and picture.upscaler is not None:  # resampling is no model's work
            (picture,) = await services.credentials.sign((picture,), edited=True)
        png = picture.data
        hold.give(most)
        hold.take(len(png) * 7 // 3, owed=True)  # the file, and its base64 while the answer is written and taken
        left -= picture.width * picture.height
        made.append(png)
    return made


async def _by_network(
    services: Services, request: Request, name: str, data: bytes, size: tuple[int, int], how: Upscaling
) -> bytes:
    """A PNG of the picture in this size, made as a job."""
    fields = ImageFields(prompt="none", model=name, size=f"{size[0]}x{size[1]}", response_format="b64_json")
    reading = Reading(fields, plain_names(how.ignored))  # beginning a job tells its own alone
    submission = UpscaleSubmission("extras", reading, (data,), scale=None, most_factor=MAX_FACTOR)
    outcome = await upscaling.make(services, request, submission)
    return outcome.items[0].data or b""


async def _read(services: Services, request: Request, text: str, param: str) -> bytes:
    return await read_source(
        text,
        fetcher=services.fetcher,
        limits=services.limits,
        principal=request.state.principal.id,
        param=param,
    )


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRequest(f"{param} is missing: send a picture as base64 or as a data: URL.", param=param)
    return value


def _texts_of(sent: Mapping[str, Any], most: int) -> dict[str, str]:
    """The pictures of a batch, by where they stand in it."""
    items = sent.get("imageList")
    if not isinstance(items, list) or not items:
        raise BadRequest("imageList is missing: send a list of {data, name}, a picture in each.", param="imageList")
    if len(items) > most:
        raise BadRequest(f"imageList may have at most {most} pictures; send the rest in another.", param="imageList")
    found = ((f"imageList.{n}", item.get("data") if isinstance(item, dict) else item) for n, item in enumerate(items))
    return {param: _text(value, param) for param, value in found}
