"""What a front shows to replicas, and how Ray's failures reach it, with a Ray of paper."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import MagicMock

import pytest

from server.settings import Settings
from server.worker.devices import WorkerDevice
from server.worker.ray.link import LinkBroken
from tests.unit.worker.children import until
from tests.unit.worker.ray.paper_ray import Actor, Call, PaperRay, RayError

pytestmark = pytest.mark.anyio


def link_of(ray: PaperRay) -> Any:
    return ray.cluster.RayLink(ray.handle, "replica", lambda: ("front", "lease"))


async def _raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RayError()])
async def test_a_call_that_ray_ends_is_a_broken_link(paper_ray: PaperRay, error: BaseException) -> None:
    """Ray cancels what a replica that goes has not answered, and whoever read it ended as if it were cancelled itself:
    the drawing waited until its deadline, and the replica was up for ever."""
    call = Call(lambda: _raises(error))
    paper_ray.handle.options.return_value.remote.return_value = call
    with pytest.raises(LinkBroken):
        await link_of(paper_ray).greet()
    assert call.cancelled


async def test_a_request_that_ray_does_not_take_is_a_broken_link(paper_ray: PaperRay) -> None:
    """It was raised before anybody listened."""
    paper_ray.handle.options.return_value.remote.side_effect = RuntimeError("no router")
    with pytest.raises(LinkBroken):
        await link_of(paper_ray).greet()
    with pytest.raises(LinkBroken):
        await anext(link_of(paper_ray).draw(b""))


async def test_whoever_cancels_a_call_is_cancelled(paper_ray: PaperRay) -> None:
    asked = asyncio.Event()

    async def waits() -> None:
        asked.set()
        await asyncio.Event().wait()

    call = Call(waits)
    paper_ray.handle.options.return_value.remote.return_value = call
    task = asyncio.create_task(link_of(paper_ray).greet())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled


async def test_a_lease_that_ends_is_made_anew(paper_ray: PaperRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas ended at once whatever a front without one asked for, until it was started again."""
    monkeypatch.setattr(paper_ray.cluster, "_RETRY_S", 0.0)
    failing = [False, True, False]

    def new_lease() -> Actor:
        if failing.pop(0):
            raise RayError
        return Actor()

    async def answer() -> bytes:
        return b""

    paper_ray.new_lease = new_lease
    remote = paper_ray.handle.options.return_value.remote
    remote.return_value = Call(answer)
    cluster = paper_ray.cluster.Cluster(Settings(cluster="local"), (WorkerDevice("cpu", "cpu"),))
    cluster.connect()
    cluster.start(MagicMock())
    link = cluster._link("replica")
    await link.greet()
    (first,) = paper_ray.leases
    name = remote.call_args.args[0]
    assert remote.call_args.args == (name, first, b"")
    await asyncio.sleep(0)
    first.dead.set()

    async with asyncio.timeout(10):
        await until(lambda: cluster._shown[1] is not first)
    await link.greet()
    assert remote.call_args.args[1] is paper_ray.leases[1]
    assert remote.call_args.args[0] != name, "what replicas end of the old lease is not of the new"
    await cluster.stop()
    await cluster.close()
    assert paper_ray.shut_down == 1
