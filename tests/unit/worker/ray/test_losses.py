"""What the loss of a replica is blamed on, what it ends, and what comes after it. Without Ray."""

from __future__ import annotations

import asyncio
import time

import pytest

from pipelines.spec import Encoding
from server.errors import DarkroomError, ModelUnavailable, Unavailable, WorkerLost
from server.settings import Settings
from server.worker import failures, protocol
from server.worker.ray.member import ServeMember
from server.worker.ray.messages import Refusal
from server.worker.status import ModelState
from tests.unit.worker.children import HELLO, Children, until
from tests.unit.worker.members import draw
from tests.unit.worker.ray.paper import HERE, PaperCluster, asked, begin, drawing, ready

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that was lost is looked for again at once."""
    monkeypatch.setattr("server.worker.ray.member._RETRY_S", 0.01)


LOADING = protocol.Moved("here", "loading", "", 0.0, HERE.mark)


async def begun(cluster: PaperCluster) -> asyncio.Task[protocol.Finished]:
    """A drawing that the worker of the one replica has come to, as its front knows."""
    steps: list[int] = []
    task = asyncio.create_task(draw(cluster.fleet, drawing(), lambda done, of: steps.append(done)))
    child = cluster.child["a"]
    await until(lambda: asked(child) == ["job_1"])
    child.say(protocol.Started("job_1"))
    child.say(protocol.Progress("job_1", 1, 4, 1))
    await until(lambda: bool(steps))
    return task


@pytest.mark.parametrize("how", ["cut", "fault"])
async def test_no_drawing_is_suspected_of_a_way_that_is_cut(cluster: PaperCluster, how: str) -> None:
    """Two cuts of a network while it was drawn, and a request was refused as one that ends the process. A fault that
    nobody had listed left it to its deadline."""
    await ready(cluster, "a")
    task = await begun(cluster)
    if how == "cut":
        cluster.links["a"].cut.set()
    else:
        cluster.links["a"].faults["draw"] = KeyError("unlisted")
        cluster.child["a"].say(protocol.Progress("job_1", 2, 4, 1))
    with pytest.raises(WorkerLost, match="not heard any more") as lost:
        await task
    assert (lost.value.begun, lost.value.started) == (False, True), "not counted, and not drawn twice"


async def test_a_drawing_is_suspected_where_its_worker_has_died(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    task = await begun(cluster)
    cluster.child["a"].end(-11)
    with pytest.raises(WorkerLost, match="stopped") as lost:
        await task
    assert (lost.value.begun, lost.value.started) == (True, True)


async def test_what_no_replica_has_accepted_is_not_suspected(children: Children) -> None:
    cluster = PaperCluster(children, silent_s=0.2)
    await ready(cluster, "a")
    cluster.links["a"].lets_in = False
    with pytest.raises(WorkerLost) as lost:
        await begin(cluster)
    assert not lost.value.started
    await cluster.stop()


def only(cluster: PaperCluster) -> ServeMember:
    (member,) = cluster.fleet.members
    assert isinstance(member, ServeMember)
    return member


async def loading(cluster: PaperCluster) -> None:
    """The worker of the one replica says that it loads its model."""
    member = only(cluster)
    await until(lambda: member.up)
    cluster.child["a"].say(LOADING)
    await until(lambda: member.models._being_loaded == "here")


async def test_a_cut_is_blamed_on_no_model(cluster: PaperCluster) -> None:
    """Two cuts during a load, and the model was given up for ten minutes on all machines."""
    link = await cluster.add("a")
    await until(lambda: bool(cluster.fleet.members))
    member = only(cluster)
    for _ in range(2):
        await loading(cluster)
        link.cut.set()
        await until(lambda: not member.up)
        assert member.models["here"].state is ModelState.UNLOADED
        link.cut.clear()


async def test_two_deaths_of_the_worker_are(cluster: PaperCluster) -> None:
    await cluster.add("a")
    await until(lambda: bool(cluster.fleet.members))
    member = only(cluster)
    for _ in range(2):
        await loading(cluster)
        cluster.child["a"].end(-9)
        cluster.child["a"] = await cluster.children.get()
        cluster.child["a"].say(HELLO)
    await until(lambda: member.models["here"].state is ModelState.BROKEN)
    with pytest.raises(ModelUnavailable):
        cluster.fleet.require("here", "here")


async def asleep(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    member = only(cluster)
    cluster.fleet.sleep()
    await until(lambda: member.asleep)


async def test_a_worker_that_does_not_wake_is_said_to_be_down(cluster: PaperCluster) -> None:
    """/readyz said ready, drawings were answered 503, and a load waited for ever."""
    await asleep(cluster)
    member = only(cluster)
    load = asyncio.create_task(cluster.fleet.load(HERE, "here"))
    (await cluster.children.get()).end(1)
    with pytest.raises(Unavailable, match="cannot be started"):
        await load
    assert not cluster.fleet.settled
    assert member.models["here"].state is ModelState.UNLOADED
    assert not member.busy
    assert "machine (/tmp/ray/session_latest/logs/worker-*.err) says why" in cluster.fleet.start_failure
    with pytest.raises(Unavailable, match="cannot be started"):
        await begin(cluster)
    child = cluster.child["a"] = await cluster.children.get()
    child.say(HELLO)
    await until(lambda: member.up)
    assert not cluster.fleet.start_failure


async def test_what_was_to_wake_one_that_cannot_is_drawn_by_another(cluster: PaperCluster) -> None:
    """The replica's refusal did not say that nothing had come to it."""
    await ready(cluster, "a", "b")
    first, other = cluster.fleet.members
    first.sleep()
    await until(lambda: first.asleep)
    task = asyncio.create_task(first.draw(drawing(), Encoding(), lambda done, of: None, lambda number, picture: None))
    (await cluster.children.get()).end(1)
    with pytest.raises(Unavailable) as refused:
        await task
    assert not refused.value.started
    assert other.up


async def test_a_sleeping_replica_that_is_lost_is_not_ready(cluster: PaperCluster) -> None:
    """It counted as one that wakes: drawings were sent to it, and /readyz said ready."""
    await asleep(cluster)
    member = only(cluster)
    cluster.links["a"].cut.set()
    await until(lambda: not member.asleep)
    assert not cluster.fleet.settled
    assert not member.rest.excused
    with pytest.raises(WorkerLost):
        await cluster.fleet.load(HERE, "here")
    cluster.links["a"].cut.clear()
    await until(lambda: member.asleep)
    assert cluster.fleet.settled


async def test_a_load_that_does_not_arrive_is_not_under_way(cluster: PaperCluster) -> None:
    """The model was said to load until somebody drew with it, and whoever had asked for it waited for ever."""
    await ready(cluster, "a")
    member = only(cluster)
    member.models["here"].state = ModelState.UNLOADED
    cluster.links["a"].deaf = True
    with pytest.raises(WorkerLost):
        await cluster.fleet.load(HERE, "here")
    assert member.models["here"].state is ModelState.UNLOADED


async def test_a_replica_that_leaves_takes_its_gauges_with_it(cluster: PaperCluster) -> None:
    """What its device's memory held was told for as long as the front ran. It counted as a worker that had died."""
    await ready(cluster, "a")
    cluster.child["a"].say(protocol.Tally({}, {"in_use": 5, "reserved": 7}))

    def in_use() -> float | None:
        labels = {"kind": "in_use", "device": "machine/cpu:0"}
        return cluster.metrics.registry.get_sample_value("darkroom_device_memory_bytes", labels)

    await until(lambda: in_use() == 5)
    cluster.remove("a")
    await until(lambda: in_use() is None)
    assert cluster.metrics.registry.get_sample_value("darkroom_worker_restarts_total") == 0


async def test_a_fault_of_the_watch_is_survived(cluster: PaperCluster) -> None:
    """A fault that nobody had listed ended the watch, and the replica was up for ever."""
    await ready(cluster, "a")
    member = only(cluster)
    cluster.links["a"].faults["watch"] = KeyError("unlisted")
    cluster.child["a"].say(protocol.Tally({}, {}))
    await until(lambda: not member.up)
    await until(lambda: member.up)


async def test_a_server_that_stops_keeps_nobody_waiting(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    task = await begun(cluster)
    await cluster.fleet.members[0].stop()
    with pytest.raises(WorkerLost) as lost:
        await task
    assert not lost.value.begun


async def test_a_drawing_ends_there_at_its_own_deadline(cluster: PaperCluster) -> None:
    """It had all of job_timeout_s, however long it had waited for its turn."""
    await ready(cluster, "a")
    link, child = cluster.links["a"], cluster.child["a"]
    for number, left_s in enumerate((7.0, 10_000.0, -1.0)):
        async with cluster.fleet.reserve(drawing(number), deadline_s=time.monotonic() + left_s) as place:
            task = asyncio.create_task(place.draw(Encoding(), lambda done, of: None))
            await until(lambda number=number: len(link.asked) > number)  # type: ignore[misc]
            if left_s > 0:
                await until(lambda number=number: f"job_{number}" in asked(child))  # type: ignore[misc]
                child.say(protocol.Finished(f"job_{number}", (), 0.1))
                await task
            else:
                with pytest.raises(DarkroomError, match="in the time that this server allows"):
                    await task
    within_s = [each.within_s for each in link.asked]
    assert 6.0 < within_s[0] <= 7.0
    assert within_s[1] == Settings().job_timeout_s
    assert 0 < within_s[2] < 1.0


@pytest.mark.parametrize("error", [failures.cannot_start(), failures.lost(begun=False), failures.lost(started=False)])
def test_a_refusal_says_what_had_begun(error: Unavailable) -> None:
    crossed = Refusal.of("job_1", error).error()
    assert isinstance(crossed, type(error))
    assert (crossed.started, getattr(crossed, "begun", None)) == (error.started, getattr(error, "begun", None))


async def test_a_device_that_is_refused_at_the_start_fails_the_check_of_its_replica(cluster: PaperCluster) -> None:
    """Its worker was never started again, and the replica stayed, of no use to anybody."""
    link = await cluster.add("a", begin_with=protocol.Refused("machine: no room on cuda:0"))
    child = cluster.child["a"]
    link.host.check()
    child.end(3)
    await until(lambda: bool(cluster.fleet.members) and bool(cluster.fleet.members[0].start_failure))

    def raises() -> bool:
        try:
            link.host.check()
        except RuntimeError as error:
            return "no room on cuda:0" in str(error)
        return False

    await until(raises)
