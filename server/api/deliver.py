"""Finished pictures → the answer: stored behind signed URLs, or inline as base64.

Knows the answer's shape and where URLs come from; a URL is never made from the Host header.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import msgspec
from fastapi import Request, Response

from pipelines.plan import DrawJob
from pipelines.spec import Picture
from server.api.services import Services
from server.api.wire import ImageRequest
from server.catalog import Model
from server.errors import StoreFull
from server.jobs.job import Job
from server.storage.store import Store, new_name


@dataclass(frozen=True)
class Delivery:
    """What is known when the last picture is finished."""

    fields: ImageRequest
    model: Model
    job: Job
    pictures: tuple[Picture, ...]
    started: int  # unix seconds


async def deliver(services: Services, request: Request, delivery: Delivery) -> Response:
    """The 200 answer. Raises StoreFull when a picture cannot be kept."""
    data = [await _item(services, request, delivery.fields, picture) for picture in delivery.pictures]
    spec = delivery.job.draw.spec
    body = {
        "created": delivery.started,
        "data": data,
        "model": delivery.model.id,
        "size": f"{spec.width}x{spec.height}",
        "quality": delivery.fields.quality,
        "output_format": delivery.fields.output_format,
    }
    # Tens of megabytes of base64 are made on a thread; msgspec turns bytes into base64 as it writes.
    encoded = await anyio.to_thread.run_sync(msgspec.json.encode, body)
    return Response(encoded, media_type="application/json", headers={"x-job-id": delivery.job.id})


async def _item(services: Services, request: Request, fields: ImageRequest, picture: Picture) -> dict[str, Any]:
    if fields.response_format == "b64_json":
        return {"b64_json": picture.data, "seed": picture.seed}
    name = new_name(picture.mime)
    await services.store.put(name, picture.data, picture.mime)
    expires = int(time.time()) + services.settings.url_lifetime_s
    return {
        "url": base_url(services, request) + services.signer.url_path(name, expires),
        "seed": picture.seed,
    }


async def require_room(store: Store, draw: DrawJob) -> None:
    """Raise StoreFull if the store could not hold the job's pictures, reckoned without compression."""
    if not await store.has_room(draw.spec.width * draw.spec.height * 3 * len(draw.seeds)):
        raise StoreFull("The server has no room to keep pictures; response_format b64_json still works.")


def base_url(services: Services, request: Request) -> str:
    """What a client types before the path: the public_url setting, else the address it reached us at."""
    if services.settings.public_url is not None:
        return services.settings.public_url
    # The local end of this very connection, as the socket knows it: no client can choose it.
    host, port = request.scope["server"]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
