"""The queue: permits once and only once, turns in fairness, refusals at once."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import Draining, KeyLimit, QueueFull
from server.jobs.queue import JobQueue

pytestmark = pytest.mark.anyio


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_principals_take_turns_and_one_principals_jobs_keep_their_order() -> None:
    queue = JobQueue(100, slots=1)
    served: list[str] = []

    async def job(name: str) -> None:
        with queue.permit(name[0]):
            async with queue.turn(name[0]):
                served.append(name)

    async with queue.turn("z"):  # until everybody waits
        tasks = [asyncio.create_task(job(name)) for name in ("a0", "a1", "a2", "a3", "b0", "b1", "c0")]
        await settle()
        assert queue.queued == 7
    await asyncio.gather(*tasks)
    assert served == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


async def test_full_is_told_at_once_with_a_time_from_measured_speed() -> None:
    queue = JobQueue(2, slots=1)
    with queue.permit("a"), queue.permit("b"):
        started = time.perf_counter()
        for _ in range(1000):
            with pytest.raises(QueueFull) as full, queue.permit("c"):
                raise AssertionError
        assert (time.perf_counter() - started) / 1000 < 0.05
        assert full.value.retry_after_s is not None
        assert 1 <= full.value.retry_after_s <= 120
    with queue.permit("c"):
        assert queue.held == 1


async def test_retry_after_follows_how_long_jobs_take(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = JobQueue(9, slots=1)
    loop = asyncio.get_running_loop()
    now = loop.time()
    waits = []
    for job_s in [30.0] * 20 + [10_000.0] * 20 + [0.001] * 80:
        clock = iter([now, now + job_s])
        monkeypatch.setattr(loop, "time", lambda clock=clock: next(clock, now))
        async with queue.turn("a"):
            pass
        waits.append(queue.retry_after_s())
        monkeypatch.undo()
    assert waits[19] == pytest.approx(30, rel=0.1)
    assert waits[39] == 120  # clients obey no more
    assert waits[-1] == 1


def test_one_keys_limit_is_its_own() -> None:
    queue = JobQueue(10, slots=1, per_key=2)
    with queue.permit("a"), queue.permit("a"):
        with pytest.raises(KeyLimit), queue.permit("a"):
            raise AssertionError
        with queue.permit("b"):
            pass
    with queue.permit("a"):
        pass


async def test_draining_refuses_who_waits_and_who_comes_and_lets_finish_who_runs() -> None:
    queue = JobQueue(10, slots=1)
    finish = asyncio.Event()

    async def job() -> str:
        try:
            with queue.permit("a"):
                async with queue.turn("a"):
                    await finish.wait()
                    return "done"
        except Draining:
            return "drained"

    tasks = [asyncio.create_task(job()) for _ in range(3)]
    await settle()
    queue.drain()
    tasks.append(asyncio.create_task(job()))
    await settle()
    finish.set()
    assert await asyncio.gather(*tasks) == ["done", "drained", "drained", "drained"]
    await asyncio.wait_for(queue.emptied(), 1)


PLANS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 4), st.booleans()), min_size=1, max_size=25
)  # principal, cancelled after so many passes of the loop (0: never), passes of work, does it fail?


@settings(max_examples=150, deadline=None)
@given(plans=PLANS, slots=st.integers(1, 3), size=st.integers(1, 12), drain_at=st.integers(0, 40))
async def test_permits_and_turns_come_back_exactly_once_whatever_is_cancelled(
    plans: list[tuple[str, int, int, bool]], slots: int, size: int, drain_at: int
) -> None:
    queue = JobQueue(size, slots=slots)
    running = most = held = 0

    async def job(principal: str, work: int, fails: bool) -> None:
        nonlocal running, most, held
        with queue.permit(principal):
            held += 1
            assert queue.held == held <= size
            try:
                async with queue.turn(principal):
                    running += 1
                    most = max(most, running)
                    try:
                        for _ in range(work):
                            await asyncio.sleep(0)
                        if fails:
                            raise ValueError
                    finally:
                        running -= 1
            finally:
                held -= 1

    tasks = [(asyncio.create_task(job(name, work, fails)), cancel_at) for name, cancel_at, work, fails in plans]
    for tick in range(1, 400):
        for task, cancel_at in tasks:
            if tick == cancel_at:
                task.cancel()
        if tick == drain_at:
            queue.drain()
        await asyncio.sleep(0)
        if all(task.done() for task, _ in tasks):
            break
    for task, _ in tasks:
        with contextlib.suppress(asyncio.CancelledError, ValueError, QueueFull, Draining):
            await asyncio.wait_for(task, 1)
    assert (queue.held, queue.running, queue.queued, held, running) == (0, 0, 0, 0, 0)
    assert most <= slots
    await asyncio.wait_for(queue.emptied(), 1)
    if not queue.draining:  # and every slot can be had again
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(slots):
                await asyncio.wait_for(stack.enter_async_context(queue.turn("z")), 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=15), st.integers(0, 5))
async def test_places_tell_the_order_in_which_turns_really_come(names: list[str], gone: int) -> None:
    queue = JobQueue(100, slots=1)
    served: list[str] = []

    async def job(principal: str, name: str) -> None:
        async with queue.turn(principal, name):
            assert queue.place(name) is None
            served.append(name)

    async with queue.turn("z"):
        tasks = {f"{n}": asyncio.create_task(job(principal, f"{n}")) for n, principal in enumerate(names)}
        await settle()
        for name in list(tasks)[:gone]:
            tasks.pop(name).cancel()
        await settle()
        places = {name: queue.place(name) for name in tasks}
        assert sorted(places.values(), key=lambda place: place or 0) == list(range(1, len(tasks) + 1))
    await asyncio.gather(*tasks.values())
    assert served == sorted(tasks, key=lambda name: places[name] or 0)
    assert queue.place("no-such-name") is None
