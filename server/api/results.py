"""Results: finished pictures, stored behind signed URLs, inline as base64, or both; and the answer that shows them.

Knows the store, the shape of an answer and where URLs come from; a URL is never made from the Host header.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import anyio.to_thread
import msgspec
from fastapi import Request, Response

from pipelines.plan import Drawing
from pipelines.spec import Picture
from server.api import bodies
from server.api.outcome import Item, Outcome, background
from server.api.services import Services
from server.api.submission import Submission
from server.api.usage import usage
from server.catalog.catalog import Model
from server.edge.pieces import WholeAnswer
from server.errors import ServerFault, StoreFull
from server.jobs.job import Job
from server.storage.store import Store, new_name
from server.worker.protocol import Finished

log = logging.getLogger("darkroom.api")


class Wanted(NamedTuple):
    """In which forms a picture is answered."""

    url: bool
    inline: bool
    spare_url: bool = False  # left out where there is no room: nobody asked for it, and the picture is inline


def wanted(submission: Submission, model: Model) -> Wanted:
    """A stream always carries its pictures; beside them, URLs only where they were asked for by name."""
    fields = submission.fields
    if fields.stream:
        return Wanted(url=fields.response_format == "url", inline=True)
    form = fields.response_format or model.response_form(fields.model or "", contract=submission.contract)
    return Wanted(url=form in ("url", "both"), inline=form in ("b64_json", "both"), spare_url=form == "both")


async def make_outcome(
    services: Services,
    submission: Submission,
    model: Model,
    job: Job,
    drawing: Drawing,
    finished: Finished,
    base: str,
) -> Outcome:
    """Sign the pictures, if the owner has it so, and store those that are wanted behind URLs.

    Raises StoreFull when one of them cannot be stored, but must, and ServerFault when one cannot be signed.
    """
    form, items = wanted(submission, model), []
    for picture in await signed(services, drawing, finished):
        url = await _url(services, picture, base, spare=form.spare_url) if form.url else None
        items.append(Item(picture.seed, picture.data if form.inline else None, url, background(picture.transparent)))
    return outcome_of(submission, model, job, drawing, finished, items)


def outcome_of(
    submission: Submission, model: Model, job: Job, drawing: Drawing, finished: Finished, items: Sequence[Item]
) -> Outcome:
    """What is answered of a job with these pictures."""
    fields = submission.fields
    return Outcome(
        created=job.created,
        model=model.id,
        owner=model.entry.owned_by,
        size=f"{drawing.spec.width}x{drawing.spec.height}",
        quality=fields.quality,
        background=background(any(picture.transparent for picture in finished.pictures)),
        output_format=fields.output_format,
        items=tuple(items),
        usage=usage(drawing, finished.text_tokens, len(items)),
        usage_of_one=usage(drawing, finished.text_tokens, 1),
        upscaler=next((picture.upscaler for picture in finished.pictures if picture.upscaler is not None), None),
    )


async def signed(services: Services, drawing: Drawing, finished: Finished) -> Sequence[Picture]:
    """The pictures as they are given out: signed, if the owner has it so. Raises ServerFault.

    What is only resampled is no model's work, which is what a credential would say.
    """
    of_a_model = not drawing.spec.only_enlarges or any(picture.upscaler is not None for picture in finished.pictures)
    if services.credentials is None or not of_a_model:
        return finished.pictures
    return await services.credentials.sign(finished.pictures, edited=bool(drawing.spec.sources))


async def answer(outcome: Outcome) -> Response:
    """The 200 answer in OpenAI's shape."""
    return await written(bodies.plain(outcome))


async def written(body: dict[str, Any]) -> Response:
    """JSON with pictures in it: tens of megabytes of base64, which msgspec makes of bytes as it writes, on a thread."""
    encoded = await anyio.to_thread.run_sync(msgspec.json.encode, body)
    return WholeAnswer(encoded, media_type="application/json")


async def _url(services: Services, picture: Picture, base: str, *, spare: bool) -> str | None:
    """Where the picture is kept from now on; None if it is not, which it must be unless ``spare``."""
    try:
        if spare and not await services.store.has_room(len(picture.data)):
            return None
        return base + await _stored(services, picture)
    except (StoreFull, ServerFault) as error:
        if not spare:
            raise
        log.warning("picture not kept; it is answered inline", extra={"error": error.message})
        return None


async def _stored(services: Services, picture: Picture) -> str:
    """Store a picture; the signed path at which it is found."""
    expires = int(time.time()) + services.settings.url_lifetime_s
    name = new_name(picture.mime, expires)
    await services.store.put(name, picture.data, picture.mime)
    return services.signer.url_path(name, expires)


async def require_room(store: Store, drawing: Drawing) -> None:
    """Raise StoreFull if the store could not hold the job's pictures, reckoned without compression."""
    if not await store.has_room(drawing.spec.width * drawing.spec.height * 4 * len(drawing.seeds)):
        raise StoreFull("The server has no room to keep pictures; response_format b64_json still works.")


def base_url(services: Services, request: Request) -> str:
    """What a client types before the path: the public_url setting, else the address it reached us at."""
    if services.settings.public_url is not None:
        return services.settings.public_url
    # The local end of this very connection, as the socket knows it: no client can choose it.
    host, port = request.scope["server"]
    scheme = request.scope["scheme"]  # whether it was encrypted; an absolute-form target does not change it
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
