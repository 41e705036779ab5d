"""Who joins whom, who gets a permit, and that each permit comes back."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from server.errors import BadRequest, Draining, IdempotencyMismatch, KeyLimit, NotFound, QueueFull
from server.jobs.admission import Admission, Candidate
from server.jobs.job import State
from server.jobs.queue import JobQueue
from server.jobs.registry import JobRegistry
from server.jobs.repeats import Repeatable, Repeats
from server.jobs.work import Work
from tests.unit.jobs.doubles import FakeAssignment, FakeWorker, make_runner

pytestmark = pytest.mark.anyio

ONE = Repeatable("ada", b"one")


class Front:
    """Admission with all that it needs, and a worker that waits for its gate."""

    def __init__(self, *, size: int = 8, per_key: int = 0) -> None:
        self.worker = FakeWorker()
        self.worker.gate.clear()
        self.queue = JobQueue(size, slots=8, per_key=per_key)
        self.jobs = JobRegistry(self.queue)
        runner = make_runner(self.queue, self.worker)
        self.admission = Admission[str](self.queue, self.jobs, Repeats[str](len), runner, job_timeout_s=60)

    def admit(self, repeatable: Repeatable = ONE, *, is_repeat: bool = False, job_id: str = "") -> Work[str]:
        candidate = Candidate(repeatable, "m", is_repeat=is_repeat, job_id=job_id)
        return self.admission.admit(candidate, FakeAssignment()).work

    async def finish(self, *works: Work[str]) -> None:
        self.worker.gate.set()
        for work in works:
            assert await work.outcome() == "outcome"


async def test_equal_requests_have_a_job_each_unless_they_are_repeats() -> None:
    front = Front()
    first, second = front.admit(), front.admit()
    assert first is not second
    assert front.admit(is_repeat=True) is first
    assert front.queue.held == 2
    await front.finish(first, second)
    assert front.queue.held == 0
    assert len(front.worker.drawings) == 2


async def test_a_first_is_found_at_once() -> None:
    """Nothing waits between looking for a first and becoming one."""
    front = Front()
    works = {front.admit(is_repeat=True) for _ in range(5)}
    assert len(works) == 1
    assert front.queue.held == 1
    await front.finish(*works)


async def test_a_key_joins_and_belongs_to_one_request() -> None:
    front = Front()
    keyed = Repeatable("ada", b"one", "key")
    first = front.admit(keyed)
    assert front.admit(keyed) is first
    with pytest.raises(IdempotencyMismatch):
        front.admit(Repeatable("ada", b"two", "key"))
    await front.finish(first)
    assert front.admit(keyed) is first
    assert front.queue.held == 0


async def test_a_chosen_id_joins_its_own_job_and_is_refused_to_any_other() -> None:
    front = Front()
    candidate = Candidate(ONE, "m", job_id="my-very-job")
    first = front.admission.admit(candidate, FakeAssignment())
    again = front.admission.admit(candidate, FakeAssignment())
    assert (first.job_id, again.job_id) == ("my-very-job", "my-very-job")
    assert again.work is first.work
    with pytest.raises(BadRequest):
        front.admit(Repeatable("ada", b"two"), job_id="my-very-job")
    assert front.queue.held == 1  # what is refused holds no permit
    other = front.admission.admit(Candidate(ONE, "m", is_repeat=True, job_id="as-I-say"), FakeAssignment())
    assert (other.work, other.job_id) == (first.work, "as-I-say")
    assert front.jobs.get("ada", "as-I-say") is front.jobs.get("ada", "my-very-job")
    await front.finish(first.work)


async def test_a_job_has_no_more_than_sixteen_waiters() -> None:
    front = Front()
    first = front.admit(is_repeat=True)
    with contextlib.ExitStack() as waiters:
        for _ in range(16):
            waiters.enter_context(front.admit(is_repeat=True).waiter())
        with pytest.raises(KeyLimit):
            front.admit(is_repeat=True, job_id="my-very-job")
        with pytest.raises(NotFound):
            front.jobs.get("ada", "my-very-job")
        await front.finish(first)


async def test_what_is_refused_leaves_nothing_behind() -> None:
    front = Front(size=2, per_key=1)
    first = front.admit()
    with pytest.raises(KeyLimit):
        front.admit(Repeatable("ada", b"two"))
    second = front.admit(Repeatable("ben", b"one"))
    with pytest.raises(QueueFull):
        front.admit(Repeatable("cyd", b"one"))
    front.queue.drain()
    with pytest.raises(Draining):
        front.admit(Repeatable("dan", b"one"))
    assert front.queue.held == 2
    assert [list(front.jobs.jobs(name)) for name in ("cyd", "dan")] == [[], []]
    assert len(list(front.jobs.jobs("ada"))) == 1
    for work in (first, second):
        work.cancel()
    await asyncio.sleep(0.01)
    assert front.queue.held == 0


async def test_the_permit_returns_when_the_last_waiter_leaves() -> None:
    front = Front()
    work = front.admit()
    with work.waiter():
        await front.worker.drawing.wait()
        assert front.queue.held == 1
    await asyncio.sleep(0.01)
    assert front.queue.held == 0
    assert work.job.state is State.CANCELLED
