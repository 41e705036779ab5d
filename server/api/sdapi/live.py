"""Live jobs: those of these routes that go on, how far they are, and what their pictures look like now.

Knows jobs, previews and whose they are; knows neither HTTP nor models. AUTOMATIC1111 has one job, and progress and
interrupt are about that; here each key has its own, and sees no other's. Jobs of other routes are none of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.spec import Picture
from server.errors import Busy
from server.jobs.budget import Hold
from server.jobs.feed import Feed
from server.jobs.job import Job, State

_BEGUN = 0.01  # of the progress: clients take 0 for idle


class Newest(Feed):
    """The newest preview of each picture of a job, and of the first pass of two the pictures themselves."""

    def __init__(self, hold: Hold) -> None:
        super().__init__()
        self._budget = hold
        self._newest: dict[int, Picture] = {}

    def preview(self, number: int, picture: Picture) -> None:
        """Keep it in the place of an older one. For one for which there is no room the older stays."""
        older = self._newest.get(picture.index)
        more = len(picture.data) - (0 if older is None else len(older.data))
        try:
            self._budget.take(more)
        except Busy:
            return
        self._budget.give(max(0, -more))
        self._newest[picture.index] = picture
        self.notice()

    @property
    def pictures(self) -> list[Picture]:
        """In their order."""
        return [picture for _, picture in sorted(self._newest.items())]


@dataclass(eq=False)
class LiveJob:
    """One request's job. Two requests may share one, as a repeat does: it is then here twice."""

    name: str  # scripts_txt2img or scripts_img2img
    job: Job
    feed: Newest
    count: int  # n_iter
    passes: int  # 1, or 2 with a hires pass
    is_interrupted: bool = False
    seeds: tuple[int, ...] = ()  # that it was drawn with, once it is interrupted
    pictures: tuple[Picture, ...] = ()  # as they were then

    @property
    def goes_on(self) -> bool:
        return not (self.is_interrupted or self.job.ended.is_set())

    def keep(self) -> None:
        """It is to be interrupted, and answered with what it is like now."""
        self.is_interrupted, self.pictures = True, tuple(self.feed.pictures)
        if self.job.drawing is not None:
            self.seeds = self.job.drawing.seeds

    @property
    def done(self) -> float:
        """The share of all steps that are done, 0 to 1."""
        job = self.job
        share = min(1.0, job.steps_done / job.steps_of) if job.steps_of else 0.0
        return (min(job.pass_number, self.passes - 1) + share) / self.passes

    def state(self) -> dict[str, object]:
        """``state`` of the answer of progress, but for the time; all pictures are drawn at once, in parts of n_iter."""
        count = self.count * self.passes
        number = min(count - 1, int(self.done * count))
        of = self.job.steps_of
        return {
            "skipped": False,
            "interrupted": self.is_interrupted,
            "stopping_generation": self.is_interrupted,
            "job": self.name,
            "job_count": count,
            "job_no": number,
            "sampling_step": round((self.done * count - number) * of),
            "sampling_steps": of,
        }

    @property
    def progress(self) -> float:
        """What clients show, 0 to 1 and never 0."""
        return min(1.0, _BEGUN + self.done)


class LiveJobs:
    """The live jobs of one server. All methods run on the event loop's thread."""

    def __init__(self) -> None:
        self._of: dict[str, list[LiveJob]] = {}  # by principal, oldest first

    @contextlib.contextmanager
    def following(self, live: LiveJob) -> Iterator[None]:
        """Let the job be seen and interrupted inside."""
        jobs = self._of.setdefault(live.job.principal, [])
        jobs.append(live)
        try:
            with live.job.feeding(live.feed):
                yield
        finally:
            jobs.remove(live)
            if not jobs:
                self._of.pop(live.job.principal, None)

    def oldest(self, principal: str) -> LiveJob | None:
        """The one whose progress is told: of those that are drawn the oldest, else of those that wait."""
        jobs = self._of.get(principal, [])
        running = (live for live in jobs if live.job.state is State.RUNNING)
        return next(running, jobs[0] if jobs else None)

    def interrupt(self, principal: str) -> None:
        """End all of this key's jobs, for all who wait for them. What they are answered with is paid now, before what
        was set aside for it comes back; once, however many wait."""
        lives = [live for live in self._of.get(principal, ()) if live.goes_on]
        seen: dict[Job, int] = {}
        for live in lives:
            live.keep()
            seen[live.job] = max(seen.get(live.job, 0), len(live.pictures))
        for job, pictures in seen.items():
            if job.charge is not None:
                job.charge.delivered(pictures)
            job.cancel()
