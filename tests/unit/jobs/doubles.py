"""A job's parts without HTTP and without a worker process, for the tests of runner and admission."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import cast

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, ImageSpec, Picture
from server.errors import DarkroomError
from server.jobs.further import Further
from server.jobs.job import Job
from server.jobs.queue import JobQueue
from server.jobs.runner import JobRunner
from server.settings import Settings
from server.telemetry import Metrics
from server.worker.devices import WorkerDevice
from server.worker.fleet import Fleet
from server.worker.member import Member
from server.worker.protocol import Finished
from server.worker.status import ModelStatus


class FakeWorker:
    """A member of the fleet that finishes each drawing once the gate is open, or fails as told."""

    up = settled = True
    asleep = busy = False
    name = device = "fake"
    start_failure = device_problem = device_name = ""

    def __init__(self) -> None:
        self.models: dict[str, ModelStatus] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.drawing = asyncio.Event()  # once it has begun with one
        self.failure: DarkroomError | None = None
        self.drawings: list[Drawing] = []
        self.deadlines_s: list[float] = []

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Callable[[int, int], None],
        previewed: Callable[[int, Picture], None],
        deadline_s: float = math.inf,
    ) -> Finished:
        self.drawings.append(drawing)
        self.deadlines_s.append(deadline_s)
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

    def to_follow(self, drawing: Drawing) -> float:
        return 0.0

    async def follow(self, job: Job, drawing: Drawing, finished: Finished) -> tuple[Further, ...]:
        return ()

    async def deliver(self, job: Job, drawing: Drawing, finished: Finished) -> str:
        self._note("deliver", job)
        assert finished.job_id == drawing.job_id == job.key
        return "outcome"

    def _note(self, what: str, job: Job) -> None:
        self.story.append(f"{what} while {job.state}")
        if what in self.failures:
            raise self.failures[what]


def make_runner(queue: JobQueue, worker: FakeWorker, metrics: Metrics | None = None) -> JobRunner:
    return JobRunner(queue, fleet_of(worker, metrics=metrics), metrics or Metrics())


def fleet_of(*workers: FakeWorker, metrics: Metrics | None = None) -> Fleet:
    """A fleet of these members."""
    left = iter(workers)

    def build(assignment: object) -> Member:
        return cast(Member, next(left))

    devices = [WorkerDevice(worker.name, "cpu") for worker in workers]
    return Fleet(Settings(), devices, [], [], metrics or Metrics(), build)
