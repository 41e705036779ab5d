"""The registry: the jobs of this server by name, those that go on, and for a while those that have ended.

Knows jobs, their places in the queue and when to forget them; knows neither HTTP nor pictures. A principal finds
its own jobs only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from server.errors import BadRequest, NotFound
from server.jobs.job import Job, State
from server.jobs.queue import JobQueue

KEEP_S = 600.0  # after a job's end
NO_JOB = "There is no such job; ended jobs are kept ten minutes, those of Prefer: respond-async longer."
_MAX_ENDED = 200  # of one principal
_LIVE = (State.QUEUED, State.RUNNING)


@dataclass(frozen=True)
class Standing:
    """How far a job has come. ``place`` is 0 while it runs, 1 if its turn is the next; None once it has ended."""

    state: State
    place: int | None
    eta_s: float | None
    done: int  # steps
    of: int


class JobRegistry:
    """Every principal's jobs. All methods run on the event loop's thread."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._jobs: dict[str, dict[str, Job]] = {}  # by principal, then by id, oldest first

    def require_free(self, principal: str, job_id: str) -> None:
        """Raise BadRequest for an id that this principal uses. A job that failed or was cancelled gives its id back,
        so that a client may repeat its request as it was."""
        taken = self._of(principal).get(job_id)
        if taken is not None and taken.state not in (State.FAILED, State.CANCELLED):
            raise BadRequest("x-job-id names a job that you have already; choose another.", param="x-job-id")

    def has(self, job: Job, job_id: str) -> bool:
        """Whether this job is found under that id."""
        return self._of(job.principal).get(job_id) is job

    def names(self, job: Job) -> int:
        """Under how many ids this job is found."""
        return sum(found is job for found in self._of(job.principal).values())

    def add(self, job: Job, name: str | None = None) -> None:
        """Let the job be found under its id, or under one more ``name``."""
        self._forget(job.principal)
        jobs = self._jobs.setdefault(job.principal, {})
        jobs.pop(name or job.id, None)  # so that it stands last
        jobs[name or job.id] = job

    def replace(self, job: Job) -> None:
        """Let the job be found in the place of the one that has its id; it is the same client's work."""
        self._jobs.setdefault(job.principal, {})[job.id] = job

    def find(self, principal: str, job_id: str) -> Job | None:
        """What ``get`` would find; None where there is none."""
        return self._of(principal).get(job_id)

    def get(self, principal: str, job_id: str) -> Job:
        """Raises NotFound, also for another principal's job."""
        job = self._of(principal).get(job_id)
        if job is None:
            raise NotFound(NO_JOB)
        return job

    def jobs(self, principal: str) -> Iterator[tuple[str, Job]]:
        """The jobs of this principal and their names, oldest first."""
        yield from self._of(principal).items()

    def everyones(self) -> list[tuple[str, Job]]:
        """The jobs of all principals and their names, oldest first: for who may see them."""
        named = [pair for principal in list(self._jobs) for pair in self.jobs(principal)]
        return sorted(named, key=lambda pair: pair[1].admitted_s)

    def whose(self, job_id: str) -> str | None:
        """The principal that has the newest job of this id; None where there is none."""
        return next((job.principal for name, job in reversed(self.everyones()) if name == job_id), None)

    def standing(self, job: Job) -> Standing:
        return Standing(job.state, *self._place_and_eta(job), job.steps_done, job.steps_of)

    def _place_and_eta(self, job: Job) -> tuple[int | None, float | None]:
        queue = self._queue
        if job.state is State.QUEUED:
            place = queue.place(job.key)
            if place is None:  # its turn has just come; or its sources are on their way, and it will stand last
                place = 1 if job.ready.is_set() else queue.queued + job.ahead() + 1
            return place, round(queue.wait_s(place) + queue.typical_s, 1)
        if job.state is State.RUNNING:
            taken_s = time.monotonic() - job.started_s
            if job.steps_done:
                left_s = taken_s / job.steps_done * (job.steps_of - job.steps_done)
            else:
                left_s = max(0.0, queue.typical_s - taken_s)
            return 0, round(left_s, 1)
        return None, None

    def _of(self, principal: str) -> dict[str, Job]:
        self._forget(principal)
        return self._jobs.get(principal, {})

    def _forget(self, principal: str) -> None:
        """Drop what ended too long ago, and the oldest of too many."""
        jobs = self._jobs.get(principal, {})
        ended = [name for name, job in jobs.items() if job.state not in _LIVE]
        oldest_s = time.monotonic() - KEEP_S
        surplus = ended[: max(0, len(ended) - _MAX_ENDED)]
        for name in {*surplus, *(name for name in ended if jobs[name].ended_s < oldest_s)}:
            del jobs[name]
        if not jobs:
            self._jobs.pop(principal, None)
