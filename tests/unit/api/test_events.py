"""Streams end for whoever subscribed to them, however early their client leaves."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from starlette.types import Message

from server.api.events import Events, EventStream
from server.edge.disconnect import ClientLeft


@pytest.mark.anyio
async def test_a_client_that_leaves_before_the_headers_are_taken_leaves_the_work() -> None:
    """A generator that never began runs no ``finally``: the job went on for nobody, and kept its permit."""
    left: list[bool] = []

    async def events() -> Events:
        yield b"never"

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.Event().wait()  # an earlier answer on this connection still waits to be taken

    subscription = contextlib.ExitStack()
    subscription.callback(left.append, True)
    with pytest.raises(ClientLeft):
        await EventStream(events(), subscription)({"type": "http"}, receive, send)
    assert left == [True]
