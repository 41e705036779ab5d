"""A job's whole life in the order it is told in, and what the job remembers of its end."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from pipelines.plan import Drawing
from server.errors import BadImage, DeadlineExceeded, GenerationFailed, StoreFull, Unavailable, WorkerLost
from server.jobs.job import Job, State
from server.jobs.queue import JobQueue
from server.jobs.runner import JobRunner
from server.telemetry import Metrics
from server.worker.company import Company
from server.worker.protocol import Finished
from tests.unit.jobs.doubles import FakeAssignment, FakeWorker, make_runner

pytestmark = pytest.mark.anyio


def new_job(*, within_s: float = 60.0) -> Job:
    return Job("ada", "m", time.monotonic() + within_s)


def fail() -> None:
    try:
        int("no number")
    except ValueError:
        raise BadImage("image: no picture.", param="image", code="torn") from None


def torn() -> BadImage:
    """An error with a traceback and a context, as a decoder raises it."""
    with pytest.raises(BadImage) as raised:
        fail()
    return raised.value


async def test_a_job_is_prepared_drawn_and_delivered() -> None:
    queue, worker, metrics, assignment = JobQueue(1, slots=1), FakeWorker(), Metrics(), FakeAssignment()
    job = new_job()
    assert await make_runner(queue, worker, metrics).run(job, assignment) == "outcome"
    assert assignment.story == ["prepare while queued", "deliver while running"]
    assert [drawing.job_id for drawing in worker.drawings] == [job.key]
    assert (job.state, job.size, job.steps_done, job.steps_of) == (State.DONE, "64x64", 1, 2)
    assert job.ready.is_set()
    assert job.ended.is_set()
    assert job.drawing is None  # its sources are megabytes, and the job is remembered
    assert queue.running == 0
    assert metrics.registry.get_sample_value("darkroom_jobs_total", {"model": "m", "outcome": "done"}) == 1


async def test_pictures_are_delivered_after_the_turn() -> None:
    """Another job draws while these pictures are stored."""
    queue = JobQueue(1, slots=1)
    seen: list[int] = []

    class Watching(FakeAssignment):
        async def deliver(self, *arguments: object) -> str:
            seen.append(queue.running)
            return "outcome"

    await make_runner(queue, FakeWorker()).run(new_job(), Watching())
    assert seen == [0]


async def test_a_failed_job_remembers_what_to_say_and_no_frames() -> None:
    """Frames hold the request's pictures, and ended jobs are remembered for ten minutes."""
    job = new_job()
    with pytest.raises(BadImage):
        await make_runner(JobQueue(1, slots=1), FakeWorker()).run(job, FakeAssignment(prepare=torn()))
    assert job.state is State.FAILED
    assert type(job.error) is BadImage
    assert (job.error.message, job.error.param, job.error.code) == ("image: no picture.", "image", "torn")
    assert job.error.__traceback__ is None
    assert job.error.__context__ is None


@pytest.mark.parametrize("failure", [StoreFull("full"), RuntimeError("canary")])
async def test_what_fails_after_the_drawing_fails_the_job(failure: Exception) -> None:
    job = new_job()
    with pytest.raises(type(failure)):
        await make_runner(JobQueue(1, slots=1), FakeWorker()).run(job, FakeAssignment(deliver=failure))
    assert job.state is State.FAILED
    assert job.error is not None
    assert "canary" not in job.error.message


@pytest.mark.parametrize("drawing", [False, True])
async def test_the_deadline_counts_from_admission_whether_the_job_waits_or_draws(drawing: bool) -> None:
    queue, worker = JobQueue(2, slots=1), FakeWorker()
    worker.gate.clear()
    job = new_job(within_s=0.05)
    if drawing:
        with pytest.raises(DeadlineExceeded):
            await make_runner(queue, worker).run(job, FakeAssignment())
    else:
        async with queue.turn("ben"):
            with pytest.raises(DeadlineExceeded):
                await make_runner(queue, worker).run(job, FakeAssignment())
    assert job.state is State.FAILED
    assert len(worker.drawings) == drawing
    assert (queue.running, queue.queued) == (0, 0)


async def test_a_cancelled_job_gives_its_turn_back() -> None:
    queue, worker = JobQueue(1, slots=1), FakeWorker()
    worker.gate.clear()
    job = new_job()
    task = asyncio.create_task(make_runner(queue, worker).run(job, FakeAssignment()))
    await worker.drawing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert job.state is State.CANCELLED
    assert queue.running == 0


async def test_a_request_under_which_two_workers_died_is_refused_before_its_turn() -> None:
    worker = FakeWorker()
    runner = make_runner(JobQueue(1, slots=1), worker)
    worker.failure = WorkerLost("It died.")
    for _ in range(2):
        with pytest.raises(WorkerLost):
            await runner.run(new_job(), FakeAssignment())
    worker.failure = None
    job = new_job()
    with pytest.raises(GenerationFailed):
        await runner.run(job, FakeAssignment())
    assert len(worker.drawings) == 2
    assert not job.ready.is_set()


class Prompts(FakeAssignment):
    """Asks for a picture of its own."""

    def __init__(self, prompt: str) -> None:
        super().__init__()
        self.prompt = prompt

    async def prepare(self, job: Job) -> Drawing:
        drawing = await super().prepare(job)
        return msgspec.structs.replace(drawing, spec=msgspec.structs.replace(drawing.spec, prompt=self.prompt))


class Mortal(FakeWorker):
    """Dies under one prompt, together with all that it draws then. Remembers with whom each drawing was drawn."""

    def __init__(self, deadly: str) -> None:
        super().__init__()
        self.deadly = deadly
        self.now: dict[str, tuple[str, asyncio.Future[None]]] = {}  # by the ID of the job
        self.companies: list[list[str]] = []

    async def draw(self, drawing: Drawing, *arguments: object) -> Finished:
        prompt = drawing.spec.prompt
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.now[drawing.job_id] = prompt, ended
        await asyncio.sleep(0.01)  # others join
        self.companies.append(sorted(prompt for prompt, _ in self.now.values()))
        if prompt == self.deadly:
            for _, future in self.now.values():
                if not future.done():
                    future.set_exception(WorkerLost("It died."))
        try:
            await asyncio.wait([ended], timeout=0.01)
            if ended.done():
                ended.result()
        finally:
            del self.now[drawing.job_id]
        return Finished(drawing.job_id, (), seconds=0.5)


async def outcomes(runner: JobRunner, *prompts: str) -> list[str]:
    jobs = (runner.run(new_job(), Prompts(prompt)) for prompt in prompts)
    ended = await asyncio.gather(*jobs, return_exceptions=True)
    return [type(outcome).__name__ if isinstance(outcome, BaseException) else outcome for outcome in ended]


async def test_only_the_request_that_kills_when_it_is_alone_is_refused() -> None:
    """Whatever was drawn beside it at two deaths was refused for ten minutes with it."""
    worker = Mortal("deadly")
    runner = make_runner(JobQueue(9, slots=9), worker)
    prompts = ["a cat", "deadly", "a dog", "deadly"]
    assert await outcomes(runner, *prompts) == ["WorkerLost"] * 4
    worker.companies.clear()
    again = await outcomes(runner, *prompts, "a bird")
    assert again == ["outcome", "WorkerLost", "outcome", "GenerationFailed", "outcome"]
    assert sorted(worker.companies) == [["a bird"], ["a cat"], ["a dog"], ["deadly"]]
    assert await outcomes(runner, *prompts) == ["outcome", "GenerationFailed", "outcome", "GenerationFailed"]


async def test_a_suspect_that_came_out_is_drawn_beside_others_again() -> None:
    worker = Mortal("deadly")
    runner = make_runner(JobQueue(9, slots=9), worker)
    await outcomes(runner, "a cat", "deadly")
    assert await outcomes(runner, "a cat") == ["outcome"]
    worker.companies.clear()
    assert await outcomes(runner, "a cat", "a dog") == ["outcome"] * 2
    assert worker.companies == [["a cat", "a dog"]] * 2


async def test_a_worker_that_cannot_be_started_makes_nobody_a_suspect() -> None:
    worker = FakeWorker()
    runner = make_runner(JobQueue(1, slots=1), worker)
    worker.failure = Unavailable("It cannot be started.")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await runner.run(new_job(), FakeAssignment())
    worker.failure = None
    assert await runner.run(new_job(), FakeAssignment()) == "outcome"


@pytest.mark.parametrize("innocence", ["begun", "started"])
async def test_a_worker_that_ends_before_a_drawing_makes_nobody_a_suspect(innocence: str) -> None:
    """Two deaths of a worker that loaded their model, and requests were refused that had never been drawn. Two of one
    that had not come to them, or could not be reached, were as bad."""
    worker = FakeWorker()
    runner = make_runner(JobQueue(1, slots=1), worker)
    worker.failure = WorkerLost("It died.")
    with pytest.raises(WorkerLost):
        await runner.run(new_job(), FakeAssignment())  # a suspect, by this one
    setattr(worker.failure, innocence, False)
    for _ in range(3):
        with pytest.raises(WorkerLost):
            await runner.run(new_job(), FakeAssignment())
    worker.failure = None
    assert await runner.run(new_job(), FakeAssignment()) == "outcome"


async def test_who_waits_to_be_alone_comes_to_its_turn_and_gives_it_back() -> None:
    company, story, leave = Company(), list[str](), asyncio.Event()

    async def stay(name: str) -> None:
        async with company.together():
            story.append(name)
            await leave.wait()

    async def be_alone(name: str) -> None:
        async with company.alone():
            story.append(name)

    first = asyncio.create_task(stay("first"))
    await asyncio.sleep(0)
    cancelled, alone = asyncio.create_task(be_alone("cancelled")), asyncio.create_task(be_alone("alone"))
    await asyncio.sleep(0)
    second = asyncio.create_task(stay("second"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0.01)
    assert story == ["first"]
    leave.set()
    await asyncio.gather(first, alone, second)
    assert story == ["first", "alone", "second"]
