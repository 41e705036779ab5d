"""Silent name servers hold up nobody but the key that asked for them, and that one no longer than a fetch may take."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from server.errors import BadImage
from server.inputs import look_ups as look_ups_module
from server.inputs.fetch import Fetcher
from server.inputs.look_ups import LookUps

pytestmark = pytest.mark.anyio


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names that were asked for. Those that begin with silent wait for the test's end."""
    names: list[str] = []
    ended = threading.Event()

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        names.append(host)
        if host.startswith("silent"):
            ended.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(0, 0, 0, "", ("93.184.216.34", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield names
    ended.set()


@contextlib.asynccontextmanager
async def silent_fetches(fetcher: Fetcher, principal: str, count: int) -> AsyncIterator[None]:
    async def fetch(number: int) -> None:
        with contextlib.suppress(BadImage):
            await fetcher.fetch(f"http://silent{number}.example/", param="image", principal=principal)

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(fetch, number)
        await anyio.sleep(0.05)
        yield
        group.cancel_scope.cancel()


async def nothing(url: str) -> bytes | None:
    return None


async def test_silent_names_of_one_key_do_not_hold_up_another(asked: list[str]) -> None:
    """Eight of them held all look-ups of all keys until the name servers' own time was up."""
    fetcher = Fetcher("public", timeout_s=20, max_bytes=1000, own=nothing)
    look_ups = fetcher._guard._look_ups
    async with silent_fetches(fetcher, "greedy", 40):
        assert len(asked) == look_ups_module.MAX_LOOK_UPS_PER_PRINCIPAL
        with anyio.fail_after(2):
            assert [str(address) for address in await look_ups.addresses("ok.example", 80, principal="honest")] == [
                "93.184.216.34"
            ]


async def test_silent_names_are_given_up_at_the_fetch_timeout(asked: list[str]) -> None:
    """Their threads kept the places: the key itself could fetch nothing until the name servers gave up."""
    look_ups = LookUps(1.0)
    async with anyio.create_task_group() as group:

        async def ask(number: int) -> None:
            with pytest.raises(TimeoutError):
                await look_ups.addresses(f"silent{number}.example", 80, principal="a")

        for number in range(10):
            group.start_soon(ask, number)
    started = time.monotonic()
    assert await look_ups.addresses("ok.example", 80, principal="a")
    assert time.monotonic() - started < 0.9


async def test_look_ups_that_were_given_up_are_bounded(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_ups_module, "MAX_THREADS_PER_PRINCIPAL", 3)
    look_ups = LookUps(0.1)
    for number in range(6):
        with pytest.raises(TimeoutError):
            await look_ups.addresses(f"silent{number}.example", 80, principal="a")
    assert len(asked) == 3
    assert await look_ups.addresses("ok.example", 80, principal="b"), "another key's are its own"


async def test_no_look_up_begins_after_closing(asked: list[str]) -> None:
    look_ups = LookUps(1)
    look_ups.close()
    with pytest.raises(TimeoutError):
        await look_ups.addresses("ok.example", 80, principal="a")
    assert asked == []
