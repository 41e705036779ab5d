"""The transport to an application in this process: as far as a reader is, and no further."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.responses import StreamingResponse

from server.agents.in_process import InProcess

pytestmark = pytest.mark.anyio


async def test_an_answer_is_made_no_faster_than_it_is_read() -> None:
    """All of a slow reader's pictures lay in memory, where no budget counted them."""
    made = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield bytes(1000)

    async with (
        httpx.AsyncClient(transport=InProcess(StreamingResponse(pieces())), base_url="http://here") as client,
        client.stream("GET", "/") as answer,
    ):
        await asyncio.sleep(0.05)
        assert made < 10
        assert len(await answer.aread()) == 100_000
    assert made == 100


async def test_whoever_leaves_is_gone_for_the_application_too() -> None:
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with httpx.AsyncClient(transport=InProcess(app), base_url="http://here") as client:
        async with client.stream("GET", "/") as answer:
            assert answer.status_code == 200
        assert ended.is_set()


async def test_whoever_leaves_before_the_answer_is_gone_too() -> None:
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with httpx.AsyncClient(transport=InProcess(app), base_url="http://here") as client:
        asking = asyncio.create_task(client.get("/"))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait_for(ended.wait(), 5)


async def test_what_the_application_raises_is_raised() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async with httpx.AsyncClient(transport=InProcess(app), base_url="http://here") as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/")


async def test_scopes_say_of_the_connection_what_they_are_told() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    ends = {"server": ("10.0.0.1", 8080), "client": ("10.0.0.2", 9)}
    async with httpx.AsyncClient(transport=InProcess(app, ends), base_url="http://here") as client:
        await client.get("/a/b?c=d")
    assert (seen["server"], seen["client"]) == (("10.0.0.1", 8080), ("10.0.0.2", 9))
    assert (seen["path"], seen["query_string"]) == ("/a/b", b"c=d")
