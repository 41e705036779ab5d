"""Work is done once for all who want it, goes on while one of them waits, and is answered again to its key."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any

import pytest

from server.errors import IdempotencyMismatch, JobCancelled, StoreFull
from server.jobs.job import Job, State
from server.jobs.repeats import Repeatable, Repeats
from server.jobs.work import Work

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(5, method="signal")]

ONE = Repeatable("ada", b"one")
KEYED = Repeatable("ada", b"one", "key")


class Room:
    """Works that wait for a gate, and what became of them."""

    def __init__(self, **options: Any) -> None:
        self.gate = asyncio.Event()
        self.repeats: Repeats[bytes] = Repeats(len, **options)
        self.made = self.ended = 0

    async def _make(self, outcome: bytes | Exception) -> bytes:
        self.made += 1
        await self.gate.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _end(self) -> None:
        self.ended += 1

    def want(self, request: Repeatable, outcome: bytes | Exception = b"picture") -> Work[bytes]:
        work = self.repeats.find(request)
        if work is None:
            work = Work(Job(request.principal, "m", time.monotonic()), self._make(outcome), self._end)
            self.repeats.add(request, work)
        return work

    async def wait(self, request: Repeatable, outcome: bytes | Exception = b"picture") -> bytes:
        work = self.want(request, outcome)
        with work.waiter():
            return await work.outcome()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_repeat_joins_and_is_answered_alike() -> None:
    room = Room()
    tasks = [asyncio.create_task(room.wait(ONE)) for _ in range(5)]
    await settle()
    room.gate.set()
    assert await asyncio.gather(*tasks) == [b"picture"] * 5
    assert (room.made, room.ended) == (1, 1)
    assert await room.wait(ONE) == b"picture"  # without a key, what has ended is no more
    assert room.made == 2


@pytest.mark.parametrize(
    "other", [Repeatable("ben", b"one"), Repeatable("ada", b"two"), Repeatable("ada", b"one", "key")]
)
async def test_another_principal_request_or_key_does_not_join(other: Repeatable) -> None:
    room = Room()
    tasks = [asyncio.create_task(room.wait(request)) for request in (ONE, other)]
    await settle()
    room.gate.set()
    await asyncio.gather(*tasks)
    assert room.made == 2


async def test_it_goes_on_until_the_last_has_left_and_then_nobody_joins_it() -> None:
    room = Room()
    tasks = [asyncio.create_task(room.wait(ONE)) for _ in range(3)]
    await settle()
    work = room.repeats.find(ONE)
    assert work is not None
    for task in tasks[:2]:
        task.cancel()
    await settle()
    assert not work.job.ended.is_set()
    tasks[2].cancel()
    await asyncio.sleep(0)
    assert room.repeats.find(ONE) is None  # at once: not only when it has ended
    await settle()
    assert work.job.state is State.CANCELLED
    assert room.ended == 1
    room.gate.set()
    assert await room.wait(ONE) == b"picture"


async def test_stopped_for_all() -> None:
    room = Room()
    tasks = [asyncio.create_task(room.wait(KEYED)) for _ in range(2)]
    await settle()
    room.want(KEYED).job.cancel()
    for task in tasks:
        with pytest.raises(JobCancelled):
            await task
    room.gate.set()
    assert await room.wait(KEYED) == b"picture"
    assert room.ended == 2


async def test_what_never_came_to_run_gives_its_permit_back_too() -> None:
    room = Room()
    with room.want(ONE).waiter():
        pass
    await settle()
    assert (room.made, room.ended) == (0, 1)


async def test_a_key_is_answered_again_after_the_end_and_only_with_its_request() -> None:
    room = Room()
    first = asyncio.create_task(room.wait(KEYED))
    await settle()
    with pytest.raises(IdempotencyMismatch):
        await room.wait(Repeatable("ada", b"two", "key"))
    room.gate.set()
    assert await first == b"picture"
    assert await room.wait(KEYED) == b"picture"
    assert room.made == 1
    with pytest.raises(IdempotencyMismatch):
        await room.wait(Repeatable("ada", b"two", "key"))
    await room.wait(Repeatable("ben", b"two", "key"))  # whose key it is, is part of it
    assert room.made == 2


async def test_a_failure_is_shared_by_those_who_wait_and_then_forgotten() -> None:
    room = Room()
    tasks = [asyncio.create_task(room.wait(KEYED, StoreFull("full"))) for _ in range(2)]
    await settle()
    room.gate.set()
    for task in tasks:
        with pytest.raises(StoreFull):
            await task
    assert await room.wait(KEYED) == b"picture"
    assert room.made == 2


async def test_kept_outcomes_are_bounded_in_bytes_and_in_time() -> None:
    room = Room(max_bytes=25_000)
    room.gate.set()
    requests = [Repeatable("ada", b"one", f"key-{number}") for number in range(4)]
    for request in requests:
        await room.wait(request, bytes(10_000))
    await room.wait(requests[3])
    await room.wait(requests[2])
    assert room.made == 4
    await room.wait(requests[0])  # the oldest went first
    assert room.made == 5
    await room.wait(Repeatable("ada", b"one", "large"), bytes(25_001))
    await room.wait(Repeatable("ada", b"one", "large"))
    assert room.made == 7  # larger than all that may be kept
    await room.wait(requests[3])
    assert room.made == 7  # and nothing went for it
    forgetful = Room(keep_s=-1.0)
    forgetful.gate.set()
    await forgetful.wait(KEYED)
    await forgetful.wait(KEYED)
    assert forgetful.made == 2


async def test_a_job_that_is_remembered_does_not_hold_what_was_made() -> None:
    """Jobs are remembered for ten minutes; with their pictures, that was gigabytes."""
    room = Room()
    room.gate.set()
    work = room.want(ONE)
    job, made = work.job, weakref.ref(work)
    with work.waiter():
        await work.outcome()
    await settle()
    del work
    gc.collect()
    assert job.ended.is_set()
    assert made() is None
