"""What is kept of an async job: its request until its end, its outcome after that.

Knows how both are written, and how a submission and an outcome come of them again. Pictures are in the store; an
outcome that is kept names them.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from pipelines.plan import Drawing
from pipelines.spec import Encoding
from server.api.generation import HUB_FLAT_COPIES, Generation, find_model
from server.api.off_loop import off_loop
from server.api.outcome import Item, Outcome, background
from server.api.reader import Reading
from server.api.results import outcome_of, require_room, signed, wanted
from server.api.services import Services
from server.api.submission import Submission
from server.api.wire import ImageFields
from server.jobs.backlog import Kept
from server.jobs.further import Further
from server.jobs.job import Job
from server.jobs.limits import Payer
from server.storage.async_jobs import Source
from server.storage.store import new_name
from server.worker.protocol import Finished


class _Request(msgspec.Struct, frozen=True):
    route: str
    prefix: str
    fields: bytes  # JSON
    names: dict[str, str]
    ignored: tuple[str, ...]
    seeds: tuple[int, ...]


class _Picture(msgspec.Struct, frozen=True):
    name: str  # in the store
    size: int  # bytes


class _Outcome(msgspec.Struct, frozen=True):
    """An outcome without its pictures' bytes and URLs, which are of the moment."""

    route: str
    url: bool  # wanted as URLs
    inline: bool  # wanted as base64
    pictures: tuple[_Picture, ...]  # of the outcome's items
    outcome: Outcome


def write_request(submission: Submission, seeds: tuple[int, ...], steering: Sequence[bytes] = ()) -> bytes:
    """All of a submission but its pictures, which are sources beside it; ``steering`` are those of its controls."""
    reading = submission.reading
    controls = tuple(
        control.model_copy(update={"image": base64.b64encode(data).decode()})
        for control, data in zip(reading.fields.controls, steering, strict=True)
    )
    fields = reading.fields.model_copy(update={"image": None, "mask": None, "webhook": None, "controls": controls})
    written = fields.model_dump_json().encode()
    kept = _Request(submission.route, submission.prefix, written, dict(reading.names), reading.ignored, seeds)
    return msgspec.msgpack.encode(kept)


def read_request(request: bytes, sources: Sequence[Source]) -> tuple[Submission, tuple[int, ...]]:
    """The submission again, and the seeds of its pictures."""
    kept = msgspec.msgpack.decode(request, type=_Request)
    values = msgspec.json.decode(kept.fields)
    prompt = values["prompt"]
    # A variation has no prompt, which no request of another route may be without.
    fields = ImageFields.model_validate_json(msgspec.json.encode(values | {"prompt": prompt or "none"}))
    reading = Reading(fields.model_copy(update={"prompt": prompt}), kept.ignored, kept.names)
    uploads = tuple(source.data for source in sources if not source.is_mask)
    mask = next((source.data for source in sources if source.is_mask), None)
    return Submission(kept.route, reading, uploads, mask, kept.prefix), kept.seeds


async def revive(services: Services, payer: Payer, request: bytes, sources: Sequence[Source]) -> KeptGeneration:
    """The assignment of a job that waited on the disk. Raises the error of a model that is no more, or that its key may
    not use any more."""
    submission, seeds = await off_loop(len(request), lambda: read_request(request, sources))
    model = find_model(services, submission, payer.limits)
    return KeptGeneration(Generation(services, submission, model, "", seeds))


@dataclass(frozen=True)
class KeptGeneration:
    """A generation whose pictures are all stored, however they are answered."""

    generation: Generation

    @property
    def encoding(self) -> Encoding:
        return self.generation.encoding

    async def prepare(self, job: Job) -> Drawing:
        drawing = await self.generation.prepare(job)
        await require_room(self.generation.services.store, drawing)
        return drawing

    async def follow(self, job: Job, drawing: Drawing, finished: Finished) -> tuple[Further, ...]:
        return await self.generation.follow(job, drawing, finished)

    def to_follow(self, drawing: Drawing) -> float:
        return self.generation.to_follow(drawing)

    async def deliver(self, job: Job, drawing: Drawing, finished: Finished) -> Kept:
        services, submission, model = self.generation.services, self.generation.submission, self.generation.model
        expires = int(time.time()) + services.settings.url_lifetime_s
        pictures, items = [], []
        for picture in await signed(services, drawing, finished):
            name = new_name(picture.mime, expires)
            await services.store.put(name, picture.data, picture.mime)
            pictures.append(_Picture(name, len(picture.data)))
            items.append(Item(picture.seed, None, None, background(picture.transparent)))
        form = wanted(submission, model)
        outcome = outcome_of(submission, model, job, drawing, finished, items)
        kept = _Outcome(submission.route, form.url, form.inline, tuple(pictures), outcome)
        return Kept(msgspec.msgpack.encode(kept), expires)


def answer_bytes(result: bytes) -> int:
    """About what the pictures take in memory, as they are and as base64, while they are answered inline."""
    kept = msgspec.msgpack.decode(result, type=_Outcome)
    copies = HUB_FLAT_COPIES if kept.route == "hub flat" else 1
    size = sum(picture.size for picture in kept.pictures) if kept.inline else 0
    return size + size * copies * 4 // 3


async def read_outcome(services: Services, result: bytes, base: str, expires: int) -> tuple[str, Outcome] | None:
    """The route of a kept outcome, and the outcome, with URLs that begin with ``base`` and are signed now. None where a
    picture is no longer in the store."""
    kept = msgspec.msgpack.decode(result, type=_Outcome)
    items = []
    for picture, item in zip(kept.pictures, kept.outcome.items, strict=True):
        data, url = None, None
        if kept.inline:
            stored = await services.store.get(picture.name)
            if stored is None:
                return None
            data = stored.data
        elif await services.store.look(picture.name) is None:
            return None
        if kept.url:
            url = base + services.signer.url_path(picture.name, expires)
        items.append(replace(item, data=data, url=url))
    return kept.route, replace(kept.outcome, items=tuple(items))
