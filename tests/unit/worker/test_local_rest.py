"""A worker that sleeps: its process has ended, and who needs it wakes it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pipelines.spec import Encoding
from server.worker import protocol
from server.worker.local import LocalWorker
from server.worker.status import ModelState
from tests.unit.worker.children import DRAWING, HELLO, MINI, Child, Children, move, started, until

pytestmark = pytest.mark.anyio


async def asleep(worker: LocalWorker, child: Child) -> None:
    worker.sleep()
    assert worker.asleep
    await until(lambda: child.returncode == 0)


async def test_a_worker_that_sleeps_is_woken_by_the_next_drawing_and_loads_no_more_than_that(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    async with started([MINI]) as worker:
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "ready")
        await asleep(worker, child)
        assert worker.settled
        assert worker.models["mini"].state is not ModelState.LOADING
        drawing = asyncio.create_task(worker.draw(DRAWING, Encoding("png", 90), lambda done, of: None))
        child = await children.get()
        assert worker.settled, "a balancer would take it out for being asked"
        child.say(HELLO)
        await until(lambda: bool(child.heard))
        assert [type(message) for message in child.heard] == [protocol.Draw]
        child.say(protocol.Finished("job_1", (), 0.1))
        await drawing
        assert worker.settled
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_drawing_that_comes_while_the_worker_ends_is_drawn_by_the_next(children: Children) -> None:
    async with started([]) as worker:
        child = await children.get()
        child.obeys = False
        child.say(HELLO)
        await until(lambda: worker.up)
        worker.sleep()
        drawing = asyncio.create_task(worker.draw(DRAWING, Encoding("png", 90), lambda done, of: None))
        await until(lambda: protocol.Stop() in child.heard)
        child.end(0)
        child = await children.get()
        child.say(HELLO)
        await until(lambda: bool(child.heard))
        child.say(protocol.Finished("job_1", (), 0.1))
        await drawing


async def test_sleep_waits_for_what_is_drawn_and_wake_preloads(children: Children) -> None:
    async with started([MINI]) as worker:
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "ready")
        drawing = asyncio.create_task(worker.draw(DRAWING, Encoding("png", 90), lambda done, of: None))
        await until(lambda: len(child.heard) == 2)
        worker.sleep()
        assert not worker.asleep
        child.say(protocol.Finished("job_1", (), 0.1))
        await drawing
        assert worker.asleep
        await until(lambda: child.returncode == 0)
        worker.wake()
        child = await children.get()
        child.say(HELLO)
        await until(lambda: bool(child.heard))
        assert child.heard == [protocol.Load(MINI)]
