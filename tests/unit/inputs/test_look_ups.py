"""Names that nobody answers for: only fetches may wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from server.errors import BadImage
from server.inputs.fetch import Fetcher

pytestmark = pytest.mark.anyio

MANY = 40  # more than asyncio has threads for everything else


class NameServers:
    """They keep silent until ``speak`` is set, and then know nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.speak = threading.Event()

    def getaddrinfo(self, host: str, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        self.speak.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def name_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    silent = NameServers()
    monkeypatch.setattr(socket, "getaddrinfo", silent.getaddrinfo)
    yield silent
    silent.speak.set()


async def nothing(url: str) -> bytes | None:
    return None


@contextlib.asynccontextmanager
async def fetching(silent: NameServers, *, timeout_s: float) -> Any:
    """The tasks of many fetches, all of which wait."""
    fetcher = Fetcher("public", timeout_s=timeout_s, max_bytes=1000, own=nothing)
    urls = [f"http://{number}.example/x.png" for number in range(MANY)]
    tasks = [asyncio.create_task(fetcher.fetch(url, param="image")) for url in urls]
    try:
        while not silent.asked:  # noqa: ASYNC110, filled by another thread
            await asyncio.sleep(0.01)
        yield tasks
    finally:
        silent.speak.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        fetcher.close()
    assert {type(answer) for answer in answers} == {BadImage}


async def test_silent_name_servers_hold_up_nothing_but_fetches(name_servers: NameServers) -> None:
    """They held every thread on which pictures are kept, read and decoded."""
    async with fetching(name_servers, timeout_s=20) as tasks:
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "a thread is free") == "a thread is free"
        assert not any(task.done() for task in tasks)


async def test_a_name_that_nobody_waits_for_any_more_is_not_asked_for(name_servers: NameServers) -> None:
    async with fetching(name_servers, timeout_s=0.5) as tasks:
        await asyncio.wait(tasks)
    assert len(name_servers.asked) < MANY / 2


async def test_a_silent_name_server_counts_against_the_deadline(name_servers: NameServers) -> None:
    async with fetching(name_servers, timeout_s=0.2) as tasks:
        started = time.monotonic()
        await asyncio.wait(tasks)
        waited_s = time.monotonic() - started
    assert waited_s < 4
