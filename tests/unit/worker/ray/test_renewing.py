"""Settings of a replica that change while it runs: limits of time at once, the rest with another worker process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.settings import Settings
from server.worker import protocol
from server.worker.devices import WorkerDevice
from tests.unit.worker.children import HELLO, Child, until
from tests.unit.worker.ray.paper import HERE, PaperCluster, asked, begin, ready

pytestmark = pytest.mark.anyio

CPU = WorkerDevice("cpu", "cpu")


def stopped(child: Child) -> bool:
    return protocol.Stop() in child.heard


async def test_limits_of_time_need_no_other_process(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    cluster.links["a"].host.renew(Settings(step_timeout_s=7.0), CPU)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not stopped(cluster.child["a"])
    assert cluster.links["a"].host._worker._patience_s() != 7.0  # nothing is drawn
    task = begin(cluster)
    await until(lambda: asked(cluster.child["a"]) == ["job_1"])
    assert cluster.links["a"].host._worker._patience_s() == 7.0
    cluster.child["a"].say(protocol.Finished("job_1", (), 0.1))
    await task


@pytest.mark.parametrize(
    ("settings", "device"),
    [(Settings(device_memory="50%"), CPU), (Settings(), WorkerDevice("cpu", "cpu", threads=3))],
)
async def test_another_process_comes_when_nothing_is_drawn(
    cluster: PaperCluster, settings: Settings, device: WorkerDevice
) -> None:
    await ready(cluster, "a")
    (member,), child = cluster.fleet.members, cluster.child["a"]
    task = begin(cluster)
    await until(lambda: asked(child) == ["job_1"])
    child.say(protocol.Started("job_1"))
    cluster.links["a"].host.renew(settings, device)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not stopped(child), "what is drawn is ended first"
    child.say(protocol.Finished("job_1", (), 0.1))
    await task
    await until(lambda: stopped(child))
    child.end(0)
    other = cluster.child["a"] = await cluster.children.get()
    await until(lambda: not member.up)
    assert not member.asleep, "a front would take it for one that nobody needs"
    other.say(HELLO)
    await until(lambda: protocol.Load(HERE) in other.heard)  # what is to be preloaded, as after any start
    await until(lambda: member.up)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not stopped(other)


async def test_settings_that_come_while_a_process_starts_are_not_lost(cluster: PaperCluster) -> None:
    link = await cluster.add("a")  # its child has been started, and not been heard by the host yet
    link.host.renew(Settings(device_memory="50%"), CPU)
    await until(lambda: stopped(cluster.child["a"]))


async def test_one_that_sleeps_is_not_woken_for_it(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    (member,), child = cluster.fleet.members, cluster.child["a"]
    cluster.fleet.sleep()
    await until(lambda: stopped(child))
    child.end(0)
    await until(lambda: member.asleep)
    link: Any = cluster.links["a"]
    link.host.renew(Settings(device_memory="50%"), CPU)
    for _ in range(50):
        await asyncio.sleep(0)
    assert link.host._worker.asleep
    assert member.asleep
