"""A replica that leaves, or is watched no more: what it has accepted it ends."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from server.worker.ray import messages
from server.worker.ray.messages import Watch
from tests.unit.worker.children import until
from tests.unit.worker.ray.paper import HERE, PaperCluster

pytestmark = pytest.mark.anyio

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="")


class SeenLease:
    """A lease that notes in which request it is watched."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def ended(self) -> None:
        self.requests.append(REQUEST.get())
        await asyncio.Event().wait()


async def test_a_lease_is_watched_within_no_request(cluster: PaperCluster) -> None:
    """Ray cancels what a request has begun with it, by its context: when a front left off watching a replica that was
    scaled down, its lease seemed to have ended, and the replica threw its drawings away."""
    link = await cluster.add("a")
    lease = SeenLease()

    async def watch() -> None:
        REQUEST.set("watch")
        async for _ in link.host.watch("another front", lease, messages.encode(Watch((HERE,)))):
            pass

    watching = asyncio.create_task(watch())
    await until(lambda: bool(lease.requests))
    watching.cancel()
    assert lease.requests == [""]
