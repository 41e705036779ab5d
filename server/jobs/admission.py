"""Admission: a request becomes a job, or joins the work that it repeats.

Knows repeats, permits and the registry of jobs; knows neither HTTP nor pictures. It never waits.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.errors import KeyLimit
from server.jobs.accounts import Accounts
from server.jobs.budget import Budget
from server.jobs.job import Job, new_job_id
from server.jobs.limits import Payer
from server.jobs.queue import JobQueue
from server.jobs.registry import JobRegistry
from server.jobs.repeats import Repeatable, Repeats
from server.jobs.runner import Assignment, JobRunner
from server.jobs.work import Work
from server.telemetry import Metrics

_MAX_WAITERS = 16  # requests for one job
_MAX_NAMES = 16  # under which one job is found

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A request that asks for admission, as plain data."""

    repeatable: Repeatable  # whose it is, and what another request must have in common with it
    model: str  # the canonical ID in models.yaml
    is_repeat: bool = False  # it may join equal work without saying more: both must come out alike
    job_id: str = ""  # chosen by the client; empty: as we like
    version: object = None  # of the model: only work of an equal one makes the same pictures
    payer: Payer | None = None  # whose use is counted; None: that of a key without a name, and without limits
    pictures: int = 1  # that it asks for


@dataclass(frozen=True)
class Admitted(Generic[T]):
    """The work that a candidate waits for, and the id under which its client finds the job."""

    work: Work[T]
    job_id: str
    first: bool  # it began the work: its answer is owed, whatever else is held


class Admission(Generic[T]):
    """The way into the queue. All methods run on the event loop's thread."""

    def __init__(
        self,
        queue: JobQueue,
        jobs: JobRegistry,
        repeats: Repeats[T],
        runner: JobRunner,
        *,
        job_timeout_s: float,
        budget: Budget | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self.repeats = repeats
        self._queue = queue
        self._jobs = jobs
        self._runner = runner
        self._job_timeout_s = job_timeout_s
        self._budget = budget or Budget(sys.maxsize)
        self._accounts = accounts or Accounts(None, Metrics())

    def admit(self, candidate: Candidate, assignment: Assignment[T]) -> Admitted[T]:
        """Join a candidate to the work that it repeats, or take a permit, register its job and begin.

        Raises what can be refused at once: IdempotencyMismatch, BadRequest for an id in use, QueueFull, KeyLimit,
        QuotaExceeded, Draining. Whoever joins pays nothing: nothing more is drawn for it. Whoever is admitted must wait
        with ``Work.waiter``: nothing else cancels work that nobody wants.
        """
        # Nothing here waits: between looking for a first and becoming one, nobody may come.
        first = self.repeats.find(candidate.repeatable, lambda work: self._may_join(candidate, work))
        return self._begin(candidate, assignment) if first is None else self._join(candidate, first)

    def _may_join(self, candidate: Candidate, work: Work[T]) -> bool:
        """Whether equal work that goes on is what this candidate repeats: it says so, by a key or by the job's id."""
        if candidate.repeatable.key:
            return True
        if candidate.is_repeat and work.job.version == candidate.version:
            return True
        return bool(candidate.job_id) and self._jobs.has(work.job, candidate.job_id)

    def _join(self, candidate: Candidate, first: Work[T]) -> Admitted[T]:
        """Wait with the first. The job is found under the id that this client chose, too."""
        if first.waiters >= _MAX_WAITERS:  # each holds its body, and no permit
            raise KeyLimit(
                f"{_MAX_WAITERS} requests wait for this same picture already.",
                retry_after_s=self._queue.retry_after_s(),
            )
        job, chosen = first.job, candidate.job_id
        if chosen and not self._jobs.has(job, chosen):
            self._jobs.require_free(job.principal, chosen)
            if self._jobs.names(job) >= _MAX_NAMES:  # a client that joins and leaves could add names for ever
                raise KeyLimit(
                    f"This job is found under {_MAX_NAMES} x-job-ids already; send one of those.",
                    retry_after_s=self._queue.retry_after_s(),
                )
            self._jobs.add(job, chosen)
        return Admitted(first, chosen or job.id, first=False)

    def _begin(self, candidate: Candidate, assignment: Assignment[T]) -> Admitted[T]:
        """Become a first. The permit is held until the work has ended, whatever its end."""
        principal = candidate.repeatable.principal
        if candidate.job_id:
            self._jobs.require_free(principal, candidate.job_id)
        payer = candidate.payer or Payer(principal, principal)
        key = new_job_id()
        with contextlib.ExitStack() as taken:
            taken.enter_context(self._queue.permit(principal, payer.limits.jobs))
            hold = taken.enter_context(self._budget.hold(principal, of_a_job=True))
            charge = self._accounts.open(payer, candidate.model, candidate.pictures, key)
            taken.callback(charge.close)
            permit = taken.pop_all()
        deadline_s = time.monotonic() + self._job_timeout_s
        job = Job(
            principal,
            candidate.model,
            deadline_s,
            candidate.version,
            id=candidate.job_id,
            key=key,
            n=candidate.pictures,
            charge=charge,
            hold=hold,
        )
        self._jobs.add(job)
        work = Work(job, self._runner.run(job, assignment), permit.close)
        self.repeats.add(candidate.repeatable, work)
        return Admitted(work, job.id, first=True)
