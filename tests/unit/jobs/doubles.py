"""A job's parts without HTTP and without a worker process, for the tests of runner and admission."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, ImageSpec, Picture
from server.errors import DarkroomError
from server.jobs.job import Job
from server.jobs.queue import JobQueue
from server.jobs.runner import JobRunner
from server.telemetry import Metrics
from server.worker.local import LocalWorker
from server.worker.protocol import Finished


class FakeWorker:
    """Finishes each drawing once the gate is open, or fails as told."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.drawing = asyncio.Event()  # once it has begun with one
        self.failure: DarkroomError | None = None
        self.drawings: list[Drawing] = []

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Callable[[int, int], None],
        previewed: Callable[[int, Picture], None],
    ) -> Finished:
        self.drawings.append(drawing)
        self.drawing.set()
        progress(1, 2)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return Finished(drawing.job_id, (), seconds=0.5)


class FakeAssignment:
    """Writes down what the runner asks for, and in which state the job was; fails where told."""

    encoding = Encoding("png")

    def __init__(self, **failures: Exception) -> None:
        self.failures = failures
        self.story: list[str] = []

    async def prepare(self, job: Job) -> Drawing:
        self._note("prepare", job)
        spec = ImageSpec("m", "a cat", 64, 64, draw_width=64, draw_height=64, steps=2, guidance=1.0)
        return Drawing(job.key, ModelPlan("m", "/models/m", "other"), spec, (7,), job.principal)

    async def deliver(self, job: Job, drawing: Drawing, finished: Finished) -> str:
        self._note("deliver", job)
        assert finished.job_id == drawing.job_id == job.key
        return "outcome"

    def _note(self, what: str, job: Job) -> None:
        self.story.append(f"{what} while {job.state}")
        if what in self.failures:
            raise self.failures[what]


def make_runner(queue: JobQueue, worker: FakeWorker, metrics: Metrics | None = None) -> JobRunner:
    return JobRunner(queue, cast(LocalWorker, worker), metrics or Metrics())
