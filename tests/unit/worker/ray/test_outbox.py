"""What waits to be told: in order, steps as one, and never silent for long."""

from __future__ import annotations

import asyncio

import pytest

from server.worker import protocol
from server.worker.ray.messages import Alive
from server.worker.ray.outbox import Outbox

pytestmark = pytest.mark.anyio


def steps(done: int) -> protocol.Progress:
    return protocol.Progress("job_1", done, 9, 1)


async def test_steps_that_wait_are_told_as_one() -> None:
    """Each message costs the front half a millisecond: the worker's own pace, one in 50 ms, would be too much."""
    outbox = Outbox[object](steps_s=0.0)
    for done in (1, 2, 3):
        outbox.put(steps(done))
    outbox.put("end")
    assert await outbox.take() == protocol.Progress("job_1", 3, 9, 3)
    assert await outbox.take() == "end"


async def test_the_end_does_not_wait_for_the_pace_of_steps() -> None:
    outbox = Outbox[object](sign_s=1000.0, steps_s=1000.0)
    outbox.put(steps(1))
    assert await outbox.take() == steps(1)
    outbox.put(steps(2))
    taken = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not taken.done()
    outbox.put("end")
    assert (await taken, await outbox.take()) == (steps(2), "end")


async def test_where_nothing_is_said_a_sign_of_life_is() -> None:
    assert await Outbox[object](sign_s=0.01).take() == Alive()
