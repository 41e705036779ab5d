"""The job runner: takes a job from admission to its outcome, or to the one error that says why there is none.

Knows the queue, the fleet and deadlines; knows nothing of HTTP. Cancelling the awaiting task cancels the job.

Of the drawings that a worker had begun when it died, one may have killed it; which, nobody knows. Each is a suspect:
when it is asked for again, it is drawn alone on its device. One under which a worker dies again then is fatal, and
refused by all; one that comes out is a suspect no more. What ends workers as it is loaded is a model, and is no matter
of this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

import msgspec

from pipelines.plan import Drawing
from pipelines.spec import Encoding
from server.errors import DarkroomError, DeadlineExceeded, GenerationFailed, ServerFault, WorkerLost
from server.jobs.further import Further, Previewed, Stepped, draw_further
from server.jobs.job import Job, State
from server.jobs.queue import JobQueue
from server.telemetry import Metrics
from server.worker.fleet import Fleet
from server.worker.protocol import Finished

log = logging.getLogger("darkroom.jobs")

_MEMORY_S = 600.0  # for how long deaths are remembered

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Assignment(Protocol[T_co]):
    """What a job is for: how its drawing comes about, and what is made of its pictures."""

    @property
    def encoding(self) -> Encoding: ...

    async def prepare(self, job: Job) -> Drawing:
        """Fetch the sources and decide everything. Raises the error that forbids it."""
        ...

    async def follow(self, job: Job, drawing: Drawing, finished: Finished) -> tuple[Further, ...]:
        """What is drawn of the pictures in their place, a further drawing for each; empty: they are what was asked for.
        Called once, within the job's turn."""
        ...

    def to_follow(self, drawing: Drawing) -> float:
        """Megapixel-steps of the drawings that ``follow`` will give; 0 where there are none."""
        ...

    async def deliver(self, job: Job, drawing: Drawing, finished: Finished) -> T_co:
        """Store or encode the pictures, and make the outcome of them."""
        ...


async def _nothing() -> None:
    pass


class JobRunner:
    """Runs jobs on the devices of this server."""

    def __init__(self, queue: JobQueue, fleet: Fleet, metrics: Metrics, *, log_prompts: bool = False) -> None:
        self._queue = queue
        self._fleet = fleet
        self._metrics = metrics
        self._log_prompts = log_prompts
        self._suspects: dict[bytes, float] = {}  # by fingerprint: when a worker died under it (monotonic)
        self._fatal: dict[bytes, float] = {}  # those under which one died when they were alone

    async def run(self, job: Job, assignment: Assignment[T], *, begun: Callable[[], Awaitable[None]] = _nothing) -> T:
        """A job's whole life. Its permit was taken before, and returns after.

        ``begun`` is awaited when its turn has come, before anything is drawn.
        """
        with self._ending(job):  # done, failed or cancelled, whatever happens inside
            drawing = await assignment.prepare(job)
            await self._refuse_fatal(drawing)
            if job.charge is not None:
                spec, n, then = drawing.spec, len(drawing.seeds), assignment.to_follow(drawing)
                job.charge.draws(spec.draw_width, spec.draw_height, n, spec.steps, then=then)
            job.prepared(drawing)  # nothing is left to refuse
            async with self._turn(job, drawing):
                job.transition(State.RUNNING)
                await begun()
                finished = await self._draw(job, drawing, assignment.encoding, job.stepped, job.previewed)
                if further := await assignment.follow(job, drawing, finished):
                    finished = await draw_further(job, further, finished, functools.partial(self._draw, job))
            self._metrics.draw_seconds.labels(job.model).observe(finished.seconds)
            self._metrics.pictures.labels(job.model).inc(len(finished.pictures))
            outcome = await assignment.deliver(job, drawing, finished)
            if job.charge is not None:
                job.charge.delivered(len(drawing.seeds))
            return outcome

    @contextlib.contextmanager
    def _ending(self, job: Job) -> Iterator[None]:
        """End the job with what is done inside, count it and log it."""
        outcome = State.FAILED
        try:
            yield
            outcome = State.DONE
        except asyncio.CancelledError:
            outcome = State.CANCELLED
            raise
        except DarkroomError as error:
            job.error = copy.copy(error)  # without its frames, which hold the sources
            raise
        except Exception:
            job.error = ServerFault("The server failed on this job; its log says why.")
            raise
        finally:
            drawing = job.drawing
            job.transition(outcome)
            self._count(job, drawing)

    @contextlib.asynccontextmanager
    async def _turn(self, job: Job, drawing: Drawing) -> AsyncIterator[None]:
        """Wait for the job's turn, then hold it. Raises DeadlineExceeded, also for what is done inside."""
        lane = self._fleet.lane(drawing.plan)
        try:
            async with asyncio.timeout_at(job.deadline_s), self._queue.turn(job.principal, job.key, lane):
                yield
        except TimeoutError:
            raise DeadlineExceeded("The job did not finish in the time that this server allows.") from None

    async def _draw(
        self, job: Job, drawing: Drawing, encoding: Encoding, stepped: Stepped, previewed: Previewed
    ) -> Finished:
        """The drawing's pictures, in the order of its seeds. Raises WorkerLost, and GenerationFailed if it is fatal."""
        suspect = await _find(drawing, self._suspects)
        if suspect is None:
            async with self._fleet.reserve(drawing, deadline_s=job.deadline_s) as place:
                try:
                    return await place.draw(encoding, stepped, previewed)
                except WorkerLost as lost:
                    if not lost.begun or not lost.started:
                        raise  # its model is to blame, if anything of it is
                    self._suspects = _with(self._suspects, await asyncio.to_thread(_fingerprint, drawing))
                    raise
        async with self._fleet.reserve(drawing, alone=True, deadline_s=job.deadline_s) as place:
            await self._refuse_fatal(drawing)  # an equal one may have been drawn while this one waited
            try:
                finished = await place.draw(encoding, stepped, previewed)
            except WorkerLost as lost:
                if not lost.begun or not lost.started:
                    raise
                log.error("the worker died twice under a job", extra={"job": job.key, "model": job.model})
                self._fatal = _with(self._fatal, suspect)
                raise
            self._suspects.pop(suspect, None)
            return finished

    async def _refuse_fatal(self, drawing: Drawing) -> None:
        """Raise GenerationFailed for a drawing that kills workers."""
        if await _find(drawing, self._fatal) is not None:
            raise GenerationFailed("This request ended the process that drew it twice; it is not tried again.")

    def _count(self, job: Job, drawing: Drawing | None) -> None:
        seconds = time.monotonic() - job.admitted_s
        self._metrics.jobs.labels(job.model, str(job.state)).inc()
        self._metrics.job_seconds.labels(job.model).observe(seconds)
        fields: dict[str, object] = {
            "job": job.key,
            "model": job.model,
            "outcome": str(job.state),
            "seconds": round(seconds, 3),
        }
        if drawing is not None:
            fields |= {"task": str(drawing.spec.task), "n": len(drawing.seeds)}
        if drawing is not None and self._log_prompts:
            fields["prompt"] = drawing.spec.prompt
        log.info("job ended", extra=fields)


async def _find(drawing: Drawing, deaths: dict[bytes, float]) -> bytes | None:
    """The drawing's fingerprint if it is among those remembered. As long as no worker has died, nothing is hashed."""
    if not _remembered(deaths):
        return None
    fingerprint = await asyncio.to_thread(_fingerprint, drawing)  # its sources may be hundreds of megabytes
    return fingerprint if fingerprint in _remembered(deaths) else None


def _remembered(deaths: dict[bytes, float]) -> dict[bytes, float]:
    now = time.monotonic()
    return {fingerprint: died_s for fingerprint, died_s in deaths.items() if now - died_s < _MEMORY_S}


def _with(deaths: dict[bytes, float], fingerprint: bytes) -> dict[bytes, float]:
    return {**_remembered(deaths), fingerprint: time.monotonic()}


def _fingerprint(drawing: Drawing) -> bytes:
    """Alike for a request and its repeats, whose seeds may be new ones."""
    return hashlib.sha256(msgspec.msgpack.encode(drawing.spec)).digest()
