"""The studio: takes a job from admission to its pictures, or to the one error that says why not.

Knows the queue, the workers and deadlines; knows nothing of HTTP. Cancelling the awaiting task cancels the job.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable

import msgspec

from pipelines.spec import Picture
from server.errors import DeadlineExceeded, GenerationFailed, WorkerLost
from server.jobs.job import Job, State
from server.jobs.queue import JobQueue
from server.telemetry import Metrics
from server.worker.local import LocalWorker

log = logging.getLogger("darkroom.jobs")

_FATAL_DEATHS = 2  # a job that was running at two deaths of a worker is not tried a third time
_MEMORY_S = 600.0  # for how long deaths are remembered


class Studio:
    """Draws jobs on the workers of this server."""

    def __init__(self, queue: JobQueue, worker: LocalWorker, metrics: Metrics, *, log_prompts: bool = False) -> None:
        self._queue = queue
        self._worker = worker
        self._metrics = metrics
        self._log_prompts = log_prompts
        self._deaths: dict[bytes, tuple[int, float]] = {}  # fingerprint → deaths, last (monotonic)

    async def draw(self, job: Job, progress: Callable[[Job], None] = lambda job: None) -> tuple[Picture, ...]:
        """Wait for the job's turn, draw it, return its pictures in the order of its seeds.

        Raises the error to answer with. The job ends done, failed or cancelled, whatever happens.
        """
        outcome = State.FAILED
        try:
            self._refuse_poison(job)
            async with asyncio.timeout_at(job.deadline_s), self._queue.turn(job.principal):
                job.transition(State.RUNNING)
                finished = await self._worker.draw(job.draw, job.encoding, self._stepping(job, progress))
            outcome = State.DONE
            self._metrics.draw_seconds.labels(job.draw.spec.model).observe(finished.seconds)
            self._metrics.pictures.labels(job.draw.spec.model).inc(len(finished.pictures))
            return finished.pictures
        except TimeoutError:
            raise DeadlineExceeded("The job did not finish in the time that this server allows.") from None
        except WorkerLost:
            self._note_death(job)
            raise
        except asyncio.CancelledError:
            outcome = State.CANCELLED
            raise
        finally:
            job.transition(outcome)
            seconds = time.monotonic() - job.admitted_s
            self._metrics.jobs.labels(job.draw.spec.model, str(outcome)).inc()
            self._metrics.job_seconds.labels(job.draw.spec.model).observe(seconds)
            log.info(
                "job ended",
                extra={
                    "job": job.id,
                    "model": job.draw.spec.model,
                    "task": str(job.draw.spec.task),
                    "outcome": str(outcome),
                    "n": len(job.draw.seeds),
                    "seconds": round(seconds, 3),
                }
                | ({"prompt": job.draw.spec.prompt} if self._log_prompts else {}),
            )

    def _stepping(self, job: Job, progress: Callable[[Job], None]) -> Callable[[int, int], None]:
        def stepped(done: int, of: int) -> None:
            job.steps_done, job.steps_of = done, of
            progress(job)

        return stepped

    def _refuse_poison(self, job: Job) -> None:
        deaths, last = self._deaths.get(_fingerprint(job), (0, 0.0))
        if deaths >= _FATAL_DEATHS and time.monotonic() - last < _MEMORY_S:
            raise GenerationFailed("This request ended the process that drew it twice; it is not tried again.")

    def _note_death(self, job: Job) -> None:
        now = time.monotonic()
        self._deaths = {print_: seen for print_, seen in self._deaths.items() if now - seen[1] < _MEMORY_S}
        key = _fingerprint(job)
        self._deaths[key] = (self._deaths.get(key, (0, 0.0))[0] + 1, now)


def _fingerprint(job: Job) -> bytes:
    """Alike for a request and its repeats, whose seeds may be new ones."""
    spec = msgspec.structs.replace(job.draw.spec, seed=0)
    return hashlib.sha256(msgspec.msgpack.encode(spec)).digest()
