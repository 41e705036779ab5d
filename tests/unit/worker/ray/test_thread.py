"""The thread that speaks to Ray."""

from __future__ import annotations

import asyncio
import threading

import pytest

from server.worker.ray.thread import RayThread

pytestmark = pytest.mark.anyio


async def test_what_was_never_started_is_not_waited_for() -> None:
    """A server that stopped before it had joined its cluster waited for ever for a thread that was not there."""
    called: list[str] = []
    thread = RayThread()
    async with asyncio.timeout(5):
        await thread.submit_if_started(lambda: called.append("before"))
        thread.start()
        await thread.submit_if_started(lambda: called.append(threading.current_thread().name))
    assert called == ["ray"]


async def test_what_nobody_waits_for_any_more_does_not_end_the_thread() -> None:
    """With it all would end that Ray had started."""
    thread = RayThread()
    called: list[str] = []
    assert thread.submit(lambda: called.append("cancelled")).cancel()
    thread.start()
    await thread.submit_if_started(lambda: called.append("next"))
    assert called == ["next"]


async def test_what_fails_there_is_raised_here() -> None:
    thread = RayThread()
    thread.start()
    with pytest.raises(ZeroDivisionError):
        await thread.submit_if_started(lambda: 1 / 0)
