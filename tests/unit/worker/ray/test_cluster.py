"""Replicas as members of the fleet, from its choice to the worker's process, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipelines.plan import ModelPlan
from pipelines.spec import Picture
from server.errors import ModelUnavailable, WorkerLost
from server.worker import protocol
from server.worker.ray import messages
from server.worker.ray.member import ServeMember
from server.worker.status import ModelState
from tests.unit.worker.children import HELLO, Children, until
from tests.unit.worker.members import draw
from tests.unit.worker.ray.paper import AWAY, HERE, PaperCluster, asked, begin, drawing, ready

pytestmark = pytest.mark.anyio

PICTURE = Picture(0, b"png", "image/png", 48, 32, 5)


async def test_a_drawing_waits_for_the_first_replica_and_comes_back_whole(cluster: PaperCluster) -> None:
    steps: list[tuple[int, int]] = []
    task = asyncio.create_task(draw(cluster.fleet, drawing(), lambda done, of: steps.append((done, of))))
    await ready(cluster, "a")
    child = cluster.child["a"]
    await until(lambda: asked(child) == ["job_1"])
    child.say(protocol.Started("job_1"))
    child.say(protocol.Progress("job_1", 3, 4, 3))
    await until(lambda: bool(steps))
    child.say(protocol.Finished("job_1", (PICTURE,), 0.5, 7))
    finished = await task
    assert (finished.pictures, finished.seconds, finished.text_tokens, steps) == ((PICTURE,), 0.5, 7, [(3, 4)])
    assert [member.name for member in cluster.fleet.members] == ["machine/cpu:0"]
    assert cluster.fleet.members[0].device_name == "CPU"


async def test_drawings_are_spread_and_slots_follow_the_replicas(cluster: PaperCluster) -> None:
    await ready(cluster, "a", "b")
    assert cluster.fleet.slots() == 2 * cluster.settings.running_jobs
    tasks = [begin(cluster, number) for number in range(4)]
    await until(lambda: sum(len(asked(child)) for child in cluster.child.values()) == 4)
    assert [len(asked(child)) for child in cluster.child.values()] == [2, 2]
    for child in cluster.child.values():
        for job_id in asked(child):
            child.say(protocol.Finished(job_id, (), 0.1))
    await asyncio.gather(*tasks)


async def test_a_client_that_leaves_cancels_at_the_worker(cluster: PaperCluster) -> None:
    """Leaving the loop that reads a replica's stream did not reach it: it drew to the end."""
    await ready(cluster, "a")
    task = begin(cluster)
    await until(lambda: asked(cluster.child["a"]) == ["job_1"])
    task.cancel()
    await until(lambda: protocol.Cancel("job_1") in cluster.child["a"].heard)
    await until(lambda: cluster.links["a"].host.drawings == 0)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_front_that_dies_leaves_nothing_drawing(cluster: PaperCluster) -> None:
    """Replicas drew on to the end for a front that was gone: nobody told them."""
    await ready(cluster, "a")
    task = begin(cluster)
    await until(lambda: asked(cluster.child["a"]) == ["job_1"])
    cluster.links["a"].lease.over.set()
    await until(lambda: protocol.Cancel("job_1") in cluster.child["a"].heard)
    with pytest.raises(WorkerLost) as lost:
        await task
    assert not lost.value.begun, "no worker has died under it"


async def test_a_drawing_ends_at_its_limit_whoever_asked(children: Children) -> None:
    from server.settings import Settings

    cluster = PaperCluster(children, settings=Settings(job_timeout_s=0.5))
    await ready(cluster, "a")
    task = begin(cluster)
    with pytest.raises(Exception, match="in the time that this server allows"):
        await task
    assert protocol.Cancel("job_1") in cluster.child["a"].heard
    await cluster.stop()


async def test_the_death_of_a_replica_costs_its_own_drawings_alone(cluster: PaperCluster) -> None:
    await ready(cluster, "a", "b")
    tasks = [begin(cluster, number) for number in range(2)]
    await until(lambda: all(len(asked(child)) == 1 for child in cluster.child.values()))
    for child in cluster.child.values():
        child.say(protocol.Started(asked(child)[0]))
    of_b = asked(cluster.child["b"])[0]
    members = cluster.fleet.members
    await asyncio.sleep(0.1)
    cluster.links["a"].cut.set()
    await until(lambda: not members[0].up)
    cluster.child["b"].say(protocol.Finished(of_b, (), 0.1))
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ended) == ["Finished", "WorkerLost"]
    task = begin(cluster, 9)
    await until(lambda: "job_9" in asked(cluster.child["b"]))
    cluster.child["b"].say(protocol.Finished("job_9", (), 0.1))
    await task


async def test_what_a_replica_had_not_begun_is_drawn_by_another(cluster: PaperCluster) -> None:
    await ready(cluster, "a", "b")
    task = begin(cluster)
    await until(lambda: sum(len(asked(child)) for child in cluster.child.values()) == 1)
    first, other = ("a", "b") if asked(cluster.child["a"]) else ("b", "a")
    cluster.links[first].cut.set()
    await until(lambda: asked(cluster.child[other]) == ["job_1"])
    cluster.child[other].say(protocol.Finished("job_1", (), 0.1))
    await task


async def test_a_replica_that_leaves_ends_what_it_has_and_gets_no_more(cluster: PaperCluster) -> None:
    await ready(cluster, "a", "b")
    tasks = [begin(cluster, number) for number in range(2)]
    await until(lambda: all(len(asked(child)) == 1 for child in cluster.child.values()))
    await asyncio.sleep(0.1)  # they are accepted
    cluster.remove("a")
    assert [member.name for member in cluster.fleet.members] == ["machine/cpu:1"]
    tasks.append(begin(cluster, 9))
    await until(lambda: "job_9" in asked(cluster.child["b"]))
    for child in cluster.child.values():
        for job_id in asked(child):
            child.say(protocol.Finished(job_id, (), 0.1))
    assert len(await asyncio.gather(*tasks)) == 3
    assert "job_9" not in asked(cluster.child["a"])


async def test_a_request_to_a_replica_that_has_gone_is_sent_to_another(cluster: PaperCluster) -> None:
    """Ray Serve's router keeps what it cannot send for ever, and tells nobody."""
    await ready(cluster, "a", "b")
    for link in cluster.links.values():
        link.lets_in = False
    task = begin(cluster)
    first = await _has(cluster, "job_1")
    cluster.links["a"].lets_in = cluster.links["b"].lets_in = False
    cluster.links[{"a": "b", "b": "a"}[first]].lets_in = True
    cluster.remove(first)
    other = cluster.child[{"a": "b", "b": "a"}[first]]
    await until(lambda: asked(other) == ["job_1"])
    other.say(protocol.Finished("job_1", (), 0.1))
    await task
    assert asked(cluster.child[first]) == []


async def _has(cluster: PaperCluster, job_id: str) -> str:
    """The replica that the fleet gave this drawing to."""
    members = dict(zip(cluster.links, cluster.fleet.members, strict=True))
    await until(lambda: any(cluster.fleet.drawings(member) for member in members.values()))
    return next(name for name, member in members.items() if cluster.fleet.drawings(member))


async def test_a_replica_that_comes_later_leaves_the_server_ready(cluster: PaperCluster) -> None:
    """/readyz turned to 503 for as long as a new replica took to load its models, while the others served."""
    await ready(cluster, "a")
    await cluster.add("b")
    await until(lambda: len(cluster.fleet.members) == 2)
    assert not cluster.fleet.members[1].settled
    assert cluster.fleet.settled


async def test_a_silent_replica_is_lost_and_comes_back_when_it_is_heard(children: Children) -> None:
    """A frozen machine keeps its sockets: Ray notices after 16 to 36 s."""
    cluster = PaperCluster(children, silent_s=2.5)
    await ready(cluster, "a")
    (member,) = cluster.fleet.members
    task = begin(cluster)
    await until(lambda: asked(cluster.child["a"]) == ["job_1"])
    cluster.links["a"].frozen = True
    with pytest.raises(WorkerLost):
        await task
    await until(lambda: not member.up)
    cluster.links["a"].frozen = False
    await until(lambda: member.up and member.models["here"].state is ModelState.READY)
    await cluster.stop()


async def test_a_worker_that_dies_in_its_replica_is_told_of_and_its_next_too(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    (member,) = cluster.fleet.members
    task = begin(cluster)
    await until(lambda: asked(cluster.child["a"]) == ["job_1"])
    cluster.child["a"].end(1)
    with pytest.raises(WorkerLost):
        await task
    await until(lambda: not member.up and member.models["here"].state is ModelState.UNLOADED)
    child = cluster.child["a"] = await cluster.children.get()
    child.say(HELLO)
    await until(lambda: member.up)
    await until(lambda: protocol.Load(HERE) in child.heard)


async def test_a_machine_without_the_folder_says_so_and_is_not_chosen(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    (member,) = cluster.fleet.members
    await until(lambda: member.models["away"].state is ModelState.BROKEN)
    assert "/nowhere/away: not there on machine" in member.models["away"].reason
    with pytest.raises(ModelUnavailable):
        cluster.fleet.require(AWAY.key, "away")


async def test_the_worker_of_a_replica_sleeps_and_wakes(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    (member,) = cluster.fleet.members
    cluster.fleet.sleep()
    await until(lambda: member.asleep)
    assert cluster.fleet.settled
    task = begin(cluster)
    child = cluster.child["a"] = await cluster.children.get()
    child.say(HELLO)
    await until(lambda: asked(child) == ["job_1"])
    child.say(protocol.Finished("job_1", (), 0.1))
    await task
    assert not member.asleep


async def test_a_replica_of_another_version_is_left_out(cluster: PaperCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.worker.ray.host.__version__", "0.0.1")
    await cluster.add("a")
    await until(lambda: bool(cluster.fleet.left_out))
    assert cluster.fleet.members == ()
    assert "0.0.1" in cluster.fleet.left_out["machine/cpu:0"]


async def test_a_fault_in_a_replica_crosses_without_its_traceback(
    cluster: PaperCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(cluster, "a")

    async def fails(*arguments: object) -> None:
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr("server.worker.ray.host.HostedWorker.draw", fails)
    with pytest.raises(Exception, match="the log of its replica says why") as fault:
        await begin(cluster)
    assert "secret" not in str(fault.value)
    assert isinstance(cluster.fleet.members[0], ServeMember)


LATER = ModelPlan("later", str(Path(__file__).parent), "other")


async def test_a_model_that_models_yaml_is_given_later_is_loaded(cluster: PaperCluster) -> None:
    """Its load overtook the news of models.yaml in the replica: it was said to load until somebody drew with it."""
    await ready(cluster, "a")
    link, child = cluster.links["a"], cluster.child["a"]
    link.tells.clear()
    cluster.fleet.serve((HERE, AWAY, LATER), (HERE, LATER))
    for _ in range(20):
        await asyncio.sleep(0)
    link.tells.set()
    await until(lambda: protocol.Load(LATER) in child.heard)
    served = next(at for at, said in enumerate(child.heard) if isinstance(said, protocol.Serve) and LATER in said.plans)
    assert served < child.heard.index(protocol.Load(LATER))


async def test_a_load_of_a_plan_that_has_just_come_is_not_lost_at_the_host(cluster: PaperCluster) -> None:
    """The host looked for all folders before it took the plans over, and what came meanwhile was a load of no plan."""
    link = await cluster.add("a")
    await until(lambda: bool(cluster.fleet.members) and cluster.fleet.members[0].up)
    serve = asyncio.create_task(link.host.tell(messages.encode(protocol.Serve((HERE, LATER)))))
    await asyncio.sleep(0)
    await link.host.tell(messages.encode(protocol.Load(LATER)))
    await until(lambda: protocol.Load(LATER) in cluster.child["a"].heard)
    await serve
