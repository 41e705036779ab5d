from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Coroutine
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from server.edge.disconnect import ClientLeft, unless_disconnected, until_disconnect
from tests.unit.edge.asgi import http_scope

pytestmark = pytest.mark.anyio


class Line:
    """A receive() whose client leaves when told to."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.broken = False
        self.waiting = 0

    async def receive(self) -> Message:
        self.waiting += 1
        try:
            await self.left.wait()
        finally:
            self.waiting -= 1
        if self.broken:
            raise OSError("broken")
        return {"type": "http.disconnect"}

    @property
    def request(self) -> Request:
        return Request(http_scope(), self.receive)


@contextlib.asynccontextmanager
async def no_task_left() -> AsyncIterator[None]:
    """Require that what runs inside ends in time and leaves no task behind."""
    before = asyncio.all_tasks()
    async with asyncio.timeout(5):
        yield
    assert asyncio.all_tasks() == before


async def answer(after_s: float, value: int = 7) -> int:
    await asyncio.sleep(after_s)
    return value


class Stubborn:
    """Work that takes a while to end once cancelled, and may fail while ending."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.ended = False

    async def __call__(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            self.ended = True
            if self.fails:
                raise ValueError("while ending")


async def test_until_disconnect_passes_over_other_messages() -> None:
    async with no_task_left():
        messages: list[Message] = [
            {"type": "http.request"},
            {"type": "http.request"},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Message:
            return messages.pop(0)

        await until_disconnect(receive)
        assert messages == []


async def test_the_result_or_the_exception_of_the_work() -> None:
    async with no_task_left():
        line = Line()
        assert await unless_disconnected(line.request, answer(0.01)) == 7
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(3)
        assert await unless_disconnected(line.request, future) == 3

        async def fails() -> None:
            raise KeyError("x")

        with pytest.raises(KeyError):
            await unless_disconnected(line.request, fails())
        assert line.waiting == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_a_client_that_leaves_ends_the_work_first(fails: bool) -> None:
    async with no_task_left():
        line, work = Line(), Stubborn(fails=fails)
        asyncio.get_running_loop().call_later(0.02, line.left.set)
        with pytest.raises(ClientLeft):
            await unless_disconnected(line.request, work())
        assert work.ended


async def test_a_finished_answer_wins_over_a_client_that_leaves_at_the_same_time() -> None:
    async with no_task_left():
        line = Line()
        line.left.set()
        assert await unless_disconnected(line.request, answer(0)) == 7


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelling_the_caller_ends_both(times: int) -> None:
    async with no_task_left():
        line, work = Line(), Stubborn()
        caller = asyncio.create_task(unless_disconnected(line.request, work()))
        await asyncio.sleep(0.01)
        for _ in range(times):
            caller.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert work.ended
        assert line.waiting == 0


async def test_a_line_that_breaks_ends_the_work() -> None:
    async with no_task_left():
        line, work = Line(), Stubborn()
        line.broken = True
        line.left.set()
        with pytest.raises(OSError, match="broken"):
            await unless_disconnected(line.request, work())
        assert work.ended


async def test_it_keeps_a_timeout_of_its_caller() -> None:
    async with no_task_left():
        line, work = Line(), Stubborn()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await unless_disconnected(line.request, _as_awaitable(work()))
        assert work.ended


def _as_awaitable(work: Coroutine[Any, Any, None]) -> Awaitable[None]:
    return work
