"""The budget of bytes: who finds room, and that all of it comes back."""

from __future__ import annotations

import asyncio

import pytest

from server.errors import Busy
from server.jobs.budget import Budget, Hold
from server.jobs.repeats import Repeatable, Repeats
from tests.unit.jobs.test_admission import Front

pytestmark = pytest.mark.anyio


def held(budget: Budget, principal: str, size: int) -> Hold:
    hold = Hold(budget, principal)
    hold.take(size)
    return hold


async def test_one_key_alone_gets_half_and_another_still_finds_room() -> None:
    """Bodies in flight held memory that nobody counted: one client took 1.8 GiB, and all that was there."""
    budget = Budget(100)
    first = held(budget, "ada", 25)
    held(budget, "ada", 25)
    with pytest.raises(Busy) as refused:
        held(budget, "ada", 1)
    assert refused.value.retry_after_s is not None
    held(budget, "ben", 20)
    first.close()
    held(budget, "ada", 10)
    assert budget.held == 55


async def test_the_only_request_of_a_key_may_use_the_rest() -> None:
    """Or a limit of twice the largest body would refuse that body for ever, as long as somebody fetches a picture."""
    budget = Budget(128)
    held(budget, "", 1)
    only = held(budget, "ada", 64)
    only.take(63)
    with pytest.raises(Busy):
        only.take(1)


async def test_nothing_is_refused_while_nothing_else_is_held() -> None:
    budget = Budget(10)
    hold = held(budget, "ada", 11)
    with pytest.raises(Busy):
        held(budget, "ben", 1)
    hold.close()
    held(budget, "ben", 1)


async def test_what_is_owed_is_taken_and_keeps_others_out() -> None:
    budget = Budget(10)
    hold = held(budget, "ada", 8)
    hold.take(100, owed=True)
    with pytest.raises(Busy):
        held(budget, "ben", 1)
    held(budget, "ben", 0)  # who brings nothing is never refused
    hold.close()
    assert budget.held == 0


async def test_who_gives_back_too_much_gives_what_it_has() -> None:
    budget = Budget(10)
    hold = held(budget, "ada", 5)
    hold.give(7)
    assert (hold.size, budget.held) == (0, 0)
    with budget.hold("ada") as inside:
        inside.take(5)
    assert budget.held == 0


async def test_a_job_waits_for_room_for_its_sources() -> None:
    budget = Budget(10)
    first, second = held(budget, "ada", 5), held(budget, "ben", 5)
    with budget.hold("ada", of_a_job=True) as job:
        waiting = asyncio.create_task(job.wait(4, within_s=5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        second.give(4)
        await asyncio.wait_for(waiting, 1)
        with pytest.raises(Busy):
            await job.wait(4, within_s=0.01)
    first.close()
    second.close()
    assert budget.held == 0


async def test_kept_outcomes_are_the_first_to_go() -> None:
    """They were 64 MiB beside everything that was counted."""
    budget = Budget(100_000)
    front = Front()
    repeats = Repeats[str](lambda outcome: 30_000, budget=budget)
    works = [front.admit(Repeatable("ada", b"x", key)) for key in ("one", "two")]
    for key, work in zip(("one", "two"), works, strict=True):
        repeats.add(Repeatable("ada", b"x", key), work)
    await front.finish(*works)
    await asyncio.sleep(0)
    assert budget.held == 60_000
    assert repeats.find(Repeatable("ada", b"x", "one")) is works[0]
    held(budget, "ben", 50_000)
    assert budget.held == 80_000
    assert repeats.find(Repeatable("ada", b"x", "one")) is None
    assert repeats.find(Repeatable("ada", b"x", "two")) is works[1]


async def test_names_of_one_job_are_bounded() -> None:
    """A client that joined with a new x-job-id and left again added a name each time, for as long as the job lasted."""
    front = Front()
    first = front.admit(is_repeat=True)
    for number in range(15):
        front.admit(is_repeat=True, job_id=f"my-job-number-{number}")
    with pytest.raises(Busy):
        front.admit(is_repeat=True, job_id="one-name-too-many")
    assert front.admit(is_repeat=True, job_id="my-job-number-3") is first
    await front.finish(first)


async def test_a_job_holds_its_bytes_until_it_ends_whatever_the_end() -> None:
    front = Front()
    work = front.admit()
    work.job.take(1000)
    assert work.job.hold is not None
    assert work.job.hold.size == 1000
    work.cancel()
    await asyncio.sleep(0.01)
    assert work.job.hold.size == 0
