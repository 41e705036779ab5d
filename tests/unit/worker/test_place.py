"""A drawing's place: what it waits for, and where it goes when its member is lost."""

from __future__ import annotations

import asyncio

import pytest

from pipelines.spec import Encoding
from server.errors import ModelUnavailable
from server.jobs.queue import JobQueue
from server.settings import Settings
from server.worker import protocol
from server.worker.place import Place
from server.worker.status import ModelState
from tests.unit.worker.members import PaperFleet, PaperMember, drawing, settle

pytestmark = pytest.mark.anyio


def drawn(place: Place) -> asyncio.Task[protocol.Finished]:
    return asyncio.create_task(place.draw(Encoding(), lambda done, of: None))


def down(member: PaperMember) -> None:
    member.up = member.settled = False
    member.on_change()


async def test_a_model_that_is_broken_on_the_one_that_is_up_waits_for_the_other() -> None:
    """The loop never came back: one looked for a device among those that can draw it, the other among all that may."""
    fleet = PaperFleet(2)
    fleet.paper[0].statuses.told("a", ModelState.BROKEN, "does not fit")
    down(fleet.paper[1])
    task = fleet.begin(drawing())
    await settle()
    fleet.paper[1].come_up()
    await settle()
    fleet.paper[1].finish()
    await task


async def test_who_leaves_a_dead_member_gives_its_place_back_first() -> None:
    """Two that had to leave waited each for the place that the other held, until their deadlines."""
    fleet = PaperFleet(2)
    async with fleet.reserve(drawing(1)) as beside, fleet.reserve(drawing(2), alone=True) as alone:
        assert [beside.member, alone.member] == fleet.paper
        leaving, staying = drawn(beside), drawn(alone)
        await settle()
        fleet.paper[0].die(started=False)
        await settle()
        assert not fleet.drawings(fleet.paper[0]), "what waits elsewhere is not there any more"
        fleet.paper[0].come_up()
        fleet.paper[1].die(started=False)
        fleet.paper[1].come_up()
        for _ in range(3):
            await settle()
            for member in fleet.paper:
                member.finish()
        await asyncio.gather(leaving, staying)


async def test_who_meets_a_device_that_does_not_wake_is_drawn_by_another() -> None:
    """A card that others had filled meanwhile was 503 beside one that worked."""
    fleet = PaperFleet(2)
    task, other = fleet.begin(drawing()), fleet.begin(drawing(2))
    await settle()
    assert [len(member.drawings) for member in fleet.paper] == [1, 1]
    fleet.paper[0].fail_to_start()
    await settle()
    assert [len(member.drawings) for member in fleet.paper] == [0, 2]
    fleet.paper[1].finish()
    await asyncio.gather(task, other)


async def test_who_meets_a_device_that_cannot_load_its_model_is_drawn_by_another() -> None:
    """What was broken is tried again now and then, by whoever comes: a machine without the folder answered 503."""
    fleet = PaperFleet(2)
    task = fleet.begin(drawing())
    await settle()
    fleet.paper[0].refuse_to_load()
    await settle()
    assert [len(member.drawings) for member in fleet.paper] == [0, 1]
    fleet.paper[1].refuse_to_load()
    with pytest.raises(ModelUnavailable):
        await task


async def test_a_device_that_wakes_may_be_chosen() -> None:
    """The next drawing woke another, and loaded its model there, too."""
    fleet = PaperFleet(2)
    down(fleet.paper[1])
    down(fleet.paper[0])
    fleet.paper[0].rest.waking = True
    task = fleet.begin(drawing())
    await settle()
    assert [len(member.drawings) for member in fleet.paper] == [1, 0]
    fleet.paper[0].finish()
    await task


async def test_the_server_is_ready_while_one_that_came_back_loads() -> None:
    """It was ready as long as the other was down, and not while it loaded again what is preloaded."""
    fleet = PaperFleet(2)
    for member in fleet.paper:
        member.on_change()
    fleet.paper[1].die()
    fleet.paper[1].up = True
    fleet.paper[1].on_change()
    assert not fleet.paper[1].settled
    assert fleet.settled


async def hold(queue: JobQueue, lane: tuple[str, ...]) -> None:
    async with queue.turn("ada", lane=lane):
        await asyncio.Event().wait()


async def test_a_crowd_for_a_device_that_is_down_leaves_the_others_their_turns() -> None:
    """Its drawings had all turns of the server, and waited; nobody drew on what was idle."""
    fleet = PaperFleet(2, settings=Settings(running_jobs=2))
    queue = JobQueue(99, slots=fleet.slots)
    fleet.on_slots = queue.grant
    down(fleet.paper[1])
    tasks = [asyncio.create_task(hold(queue, ("cpu:1",))) for _ in range(4)]
    await settle()
    assert queue.running == 0
    tasks.append(asyncio.create_task(hold(queue, ())))
    await settle()
    assert queue.running == 1
    fleet.paper[1].come_up()
    await settle()
    assert queue.running == 3
    fleet.paper[1].start_failure = "It ended."
    down(fleet.paper[1])
    assert fleet.slots(("cpu:1",)) == 2, "they are answered at once"
    for task in tasks:
        task.cancel()


async def test_a_device_is_counted_under_one_name() -> None:
    """Before its worker said what it was it was called otherwise, and that series stayed at 1."""
    fleet = PaperFleet(1)
    fleet.paper[0].name = "auto"
    task = fleet.begin(drawing())
    await settle()
    fleet.paper[0].name = "cpu"
    fleet.paper[0].finish()
    await task
    value = fleet.metrics.registry.get_sample_value
    assert value("darkroom_device_drawings", {"device": "cpu"}) == 0
    assert value("darkroom_device_drawings", {"device": "auto"}) is None
