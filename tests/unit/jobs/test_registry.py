"""Who finds which job, for how long, and at which place it says to be."""

from __future__ import annotations

import asyncio
import time

import pytest

from server.errors import BadRequest, NotFound
from server.jobs import registry as module
from server.jobs.job import Job, State
from server.jobs.queue import JobQueue
from server.jobs.registry import JobRegistry


def job(principal: str = "ada", name: str = "", *, state: State | None = None) -> Job:
    made = Job(principal, "m", time.monotonic() + 60, id=name)
    if state is not None:
        made.transition(state)
    return made


@pytest.fixture
def registry() -> JobRegistry:
    return JobRegistry(JobQueue(9, slots=1))


def test_a_principal_finds_its_own_jobs_only(registry: JobRegistry) -> None:
    hers, his = job("ada", "the-same-id"), job("ben", "the-same-id")
    registry.add(hers)
    registry.add(his)
    assert registry.get("ada", "the-same-id") is hers
    assert registry.get("ben", "the-same-id") is his
    only_hers = job("ada")
    registry.add(only_hers)
    with pytest.raises(NotFound):
        registry.get("ben", only_hers.id)
    assert [name for name, _ in registry.jobs("ada")] == ["the-same-id", only_hers.id]
    assert list(registry.jobs("nobody")) == []


def test_an_id_is_taken_until_its_job_has_come_to_nothing(registry: JobRegistry) -> None:
    mine = job(name="my-very-job")
    registry.add(mine)
    with pytest.raises(BadRequest):
        registry.require_free("ada", "my-very-job")
    registry.require_free("ben", "my-very-job")
    mine.transition(State.FAILED)
    registry.require_free("ada", "my-very-job")
    again = job(name="my-very-job")
    registry.add(again)
    assert registry.get("ada", "my-very-job") is again


def test_a_second_name_finds_the_same_job(registry: JobRegistry) -> None:
    mine = job()
    registry.add(mine)
    registry.add(mine, "another-name")
    assert registry.get("ada", "another-name") is registry.get("ada", mine.id) is mine
    assert registry.has(mine, "another-name")
    assert not registry.has(mine, "no-such-name")


def test_ended_jobs_are_forgotten_in_time_and_in_number(registry: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    old = job(state=State.CANCELLED)
    old.ended_s -= module.KEEP_S + 1
    going_on = job()
    registry.add(old)
    registry.add(going_on)
    assert [found for _, found in registry.jobs("ada")] == [going_on]
    monkeypatch.setattr(module, "_MAX_ENDED", 3)
    ended = [job(state=State.CANCELLED) for _ in range(6)]
    for one in ended:
        registry.add(one)
    assert [found for _, found in registry.jobs("ada")] == [going_on, *ended[-3:]]


@pytest.mark.anyio
async def test_places_and_etas() -> None:
    queue = JobQueue(9, slots=1)
    registry = JobRegistry(queue)
    first, second, third = job("ada"), job("ada"), job("ben")
    finish = asyncio.Event()

    async def run(one: Job) -> None:
        registry.add(one)
        async with queue.turn(one.principal, one.key):
            one.transition(State.RUNNING)
            await finish.wait()
        one.transition(State.DONE)

    tasks = [asyncio.create_task(run(one)) for one in (first, second, third)]
    await asyncio.sleep(0.02)
    unprepared = job("ada")  # its sources are on their way
    standing = registry.standing
    assert [standing(one).place for one in (first, second, third, unprepared)] == [0, 1, 2, 3]
    waits = [standing(one).eta_s for one in (second, third, unprepared)]
    assert waits == sorted(waits, key=float)  # type: ignore[arg-type]
    first.stepped(1, 4)
    first.started_s -= 10
    told = standing(first)
    assert (told.done, told.of) == (1, 4)
    assert told.eta_s == pytest.approx(30, abs=1)
    finish.set()
    await asyncio.gather(*tasks)
    assert [standing(one).place for one in (first, second, third)] == [None, None, None]
    assert standing(first).eta_s is None


@pytest.mark.anyio
async def test_a_job_whose_turn_has_just_come_is_not_shown_as_the_last() -> None:
    queue = JobQueue(9, slots=1)
    registry = JobRegistry(queue)
    async with queue.turn("ben"):
        waits = asyncio.create_task(queue.turn("ada").__aenter__())
        await asyncio.sleep(0)
        mine = job("ada")
        assert registry.standing(mine).place == 2  # behind the one that waits, once its sources are here
        mine.ready.set()
        assert registry.standing(mine).place == 1
        waits.cancel()
