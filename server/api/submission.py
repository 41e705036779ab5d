"""A submission: one request as its route read it, and the candidate for admission that it makes.

Knows the headers that concern jobs, and what makes two submissions the same; knows neither models nor the queue.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from fastapi import Request

from server.api.allowed import require_allowed
from server.api.off_loop import off_loop
from server.api.prefixes import CONTRACT, SHOWN
from server.api.reader import Reading
from server.api.wire import ImageFields
from server.catalog.catalog import Catalog, Model
from server.errors import BadRequest
from server.jobs.admission import Candidate
from server.jobs.limits import Limits
from server.jobs.repeats import Repeatable

_MAX_KEY = 255  # characters of an Idempotency-Key
_CHOSEN_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


@dataclass(frozen=True)
class Submission:
    """One request's route, fields and files."""

    route: str  # generations, edits, variations, hub or hub flat
    reading: Reading
    uploads: tuple[bytes, ...] = ()  # source pictures that came as files
    mask: bytes | None = None  # a mask that came as a file
    prefix: str = SHOWN  # of the two under which the route is: what is left out means what it does there

    @property
    def fields(self) -> ImageFields:
        return self.reading.fields

    @property
    def contract(self) -> bool:
        """Is what it leaves out the contract's to say?"""
        return self.prefix == CONTRACT

    @property
    def control_images(self) -> list[str]:
        """The pictures that ControlNets steer by, in order."""
        return [control.image for control in self.fields.controls]

    @property
    def is_edit(self) -> bool:
        return bool(self.uploads or self.fields.images)

    @property
    def needs_prompt(self) -> bool:
        return self.route != "variations"

    @property
    def own(self) -> str:
        """What its pictures depend on beside fields and files, as a text; of routes that have more to say."""
        return ""

    def model_in(self, catalog: Catalog, limits: Limits) -> Model:
        """The model that it names. Raises ModelNotFound, and ModelForbidden for one that its key may not use."""
        model = self.served_by(catalog.resolve(self.fields.model or catalog.default))
        require_allowed(catalog, limits, model)
        return model

    def served_by(self, model: Model) -> Model:
        """The model as this route has it."""
        return model

    @property
    def size_bytes(self) -> int:
        """About all that it carries: pictures, as files or as texts."""
        texts = (*self.fields.images, self.fields.mask or "", *self.control_images)
        return sum(map(len, (*self.uploads, self.mask or b""))) + sum(map(len, texts))


async def read_candidate(
    request: Request, submission: Submission, *, model: Model, base: str, form: tuple[bool, ...]
) -> Candidate:
    """The candidate that this request makes, whose pictures are answered in this ``form`` with URLs that begin with
    ``base``. Raises BadRequest for a header that cannot be used."""
    chosen, key = _chosen_id(request), _idempotency_key(request)
    fingerprint = await off_loop(submission.size_bytes, lambda: _fingerprint(submission, f"{base} {form}"))
    repeatable = Repeatable(request.state.principal.id, fingerprint, key)
    is_repeat = _is_repeat(request, submission)
    payer, pictures = request.state.principal.payer, submission.fields.n
    return Candidate(
        repeatable, model.id, is_repeat=is_repeat, job_id=chosen, version=model, payer=payer, pictures=pictures
    )


def _chosen_id(request: Request) -> str:
    """The job's id as the client wants it, so that it can ask how far it is while it waits; empty: as we like."""
    sent = request.headers.getlist("x-job-id")
    if not sent:
        return ""
    if len(sent) > 1 or not _CHOSEN_ID.fullmatch(sent[0]):
        raise BadRequest("x-job-id must have 8 to 64 of A-Z, a-z, 0-9, _ and -.", param="x-job-id")
    return sent[0]


def _idempotency_key(request: Request) -> str:
    sent = request.headers.getlist("idempotency-key")
    if len(sent) > 1:
        raise BadRequest("Idempotency-Key is sent twice.", param="Idempotency-Key")
    if sent and len(sent[0]) > _MAX_KEY:
        raise BadRequest(f"Idempotency-Key has more than {_MAX_KEY} characters.", param="Idempotency-Key")
    return sent[0] if sent else ""


def _is_repeat(request: Request, submission: Submission) -> bool:
    """Whether this request may join any equal one that goes on: it repeats that, or must come out alike.

    Without a seed, equal requests at once may be a client's way to get several pictures: the ai package sends n
    requests where a model makes one at a time.
    """
    return (
        submission.fields.seed is not None
        or submission.route.startswith("hub")  # its clients send again after 60 s, and say nothing of it
        or request.headers.get("x-stainless-retry-count", "0") != "0"  # OpenAI's SDKs do
    )


def _fingerprint(submission: Submission, answered: str) -> bytes:
    """Alike for the same request: same route, same fields, same files, and answered in the same form."""
    fields = submission.fields.model_dump_json(
        exclude={"image": True, "mask": True, "controls": {"__all__": {"image"}}}
    )
    digest = hashlib.sha256()
    said = (submission.route, answered, fields, *((submission.own,) if submission.own else ()))
    for part in (*(text.encode() for text in said), *submission.uploads):
        digest.update(hashlib.sha256(part).digest())
    pictures = ((b"image", submission.fields.images), (b"mask", [submission.fields.mask or ""]))
    for mark, texts in (*pictures, (b"controls", submission.control_images)):
        digest.update(mark)
        for text in texts:  # one at a time: together they may be as long as the body
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    if submission.mask is not None:
        digest.update(b"mask file" + hashlib.sha256(submission.mask).digest())
    return digest.digest()
