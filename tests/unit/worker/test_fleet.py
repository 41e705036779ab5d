"""Who draws what in a fleet, and what becomes of the others when one of them dies."""

from __future__ import annotations

import asyncio

import pytest

from server.errors import ModelUnavailable, Unavailable, WorkerLost
from server.jobs.queue import JobQueue
from server.settings import Settings
from server.worker.status import ModelState, ModelStatus
from tests.unit.worker.members import ON_ONE, PLANS, A, B, PaperFleet, draw, drawing, settle

pytestmark = pytest.mark.anyio


def spread(fleet: PaperFleet) -> list[int]:
    return [len(member.drawings) for member in fleet.paper]


async def test_drawings_go_to_the_device_where_they_end_first() -> None:
    fleet = PaperFleet(3)
    tasks = [fleet.begin(drawing(number)) for number in range(6)]
    await settle()
    assert spread(fleet) == [2, 2, 2]
    for member in fleet.paper:
        member.finish()
    assert len(await asyncio.gather(*tasks)) == 6


async def test_all_pictures_of_a_request_stay_on_one_device() -> None:
    fleet = PaperFleet(2)
    task = fleet.begin(drawing(n=4))
    await settle()
    assert sorted(spread(fleet)) == [0, 1]
    fleet.paper[0].finish()
    await task


async def test_what_is_nearly_done_counts_for_little() -> None:
    fleet = PaperFleet(2)
    long, short = drawing(1, steps=40), drawing(2, steps=10)
    tasks = [fleet.begin(long), fleet.begin(short)]
    await settle()
    fleet.paper[0].drawings["job_1"][2](39, 40)
    tasks.append(fleet.begin(drawing(3, steps=10)))
    await settle()
    assert spread(fleet) == [2, 1]
    for member in fleet.paper:
        member.finish()
    await asyncio.gather(*tasks)


async def test_a_models_drawings_go_where_it_is_until_a_second_copy_is_cheaper() -> None:
    """A hot model on one of two devices: without a way out, all its drawings waited there for minutes."""
    fleet = PaperFleet(2)
    fleet.paper[0].has(B, load_s=5.0, room=100)
    tasks = [fleet.begin(drawing(number, B)) for number in range(5)]  # each of ten steps of 0.1 s
    await settle()
    assert spread(fleet) == [5, 0]
    tasks += [fleet.begin(drawing(number, B)) for number in range(5, 9)]
    await settle()
    assert spread(fleet)[1] > 0
    for member in fleet.paper:
        member.finish()
    await asyncio.gather(*tasks)


async def test_the_death_of_one_costs_its_own_drawings_alone() -> None:
    fleet = PaperFleet(2)
    tasks = [fleet.begin(drawing(number)) for number in range(4)]
    await settle()
    fleet.paper[0].die()
    fleet.paper[1].finish()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(end, WorkerLost) for end in ended) == 2
    after = [fleet.begin(drawing(number)) for number in range(4, 7)]
    await settle()
    assert spread(fleet) == [0, 3], "nothing waits for the one that is being replaced"
    fleet.paper[0].come_up()
    fleet.paper[0].has(A)
    after.append(fleet.begin(drawing(9)))
    await settle()
    assert spread(fleet) == [1, 3]
    for member in fleet.paper:
        member.finish()
    await asyncio.gather(*after)


async def test_the_server_stays_ready_while_one_of_two_is_replaced() -> None:
    fleet = PaperFleet(2)
    for member in fleet.paper:
        member.on_change()
    assert fleet.settled
    fleet.paper[1].die()
    assert fleet.settled
    fleet.paper[0].die()
    assert not fleet.settled


async def test_a_server_is_not_ready_before_each_of_its_devices_is() -> None:
    fleet = PaperFleet(2)
    fleet.paper[1].up = fleet.paper[1].settled = False
    assert not fleet.settled
    fleet.paper[1].start_failure = "The worker ended while it started."
    assert fleet.settled, "one that cannot start keeps nobody waiting"
    assert fleet.start_failure == ""
    fleet.paper[0].up = fleet.paper[0].settled = False
    fleet.paper[0].start_failure = "It, too."
    assert fleet.start_failure == "cpu:0: It, too. cpu:1: The worker ended while it started."


async def test_where_none_is_up_a_drawing_waits_for_the_first_that_comes() -> None:
    fleet = PaperFleet(2)
    for member in fleet.paper:
        member.up = False
    task = fleet.begin(drawing())
    await settle()
    assert spread(fleet) == [0, 0]
    fleet.paper[1].come_up()
    await settle()
    assert spread(fleet) == [0, 1]
    fleet.paper[1].finish()
    await task


async def test_where_none_comes_up_a_drawing_is_refused() -> None:
    fleet = PaperFleet(2)
    for member in fleet.paper:
        member.up = False
    task = fleet.begin(drawing())
    await settle()
    for member in fleet.paper:
        member.start_failure = "No."
        member.on_change()
    with pytest.raises(Unavailable):
        await task


async def test_a_model_is_drawn_on_the_devices_that_it_is_bound_to_alone() -> None:
    fleet = PaperFleet(2, preload=[A, ON_ONE])
    assert [member.preload for member in fleet.paper] == [(A,), (A, ON_ONE)]
    tasks = [fleet.begin(drawing(number, ON_ONE)) for number in range(5)]
    await settle()
    assert spread(fleet) == [0, 5]
    fleet.paper[1].finish()
    await asyncio.gather(*tasks)
    await fleet.load(ON_ONE, "one")
    assert [member.story for member in fleet.paper] == [[], ["load one"]]
    assert fleet.states(ON_ONE) == {"cpu:1": "ready"}
    fleet.serve(PLANS, [ON_ONE])
    assert [member.preload for member in fleet.paper] == [(), (ON_ONE,)]


async def test_a_model_that_is_broken_on_one_device_is_served_by_the_others() -> None:
    fleet = PaperFleet(2)
    fleet.paper[0].statuses.moved("a", ModelState.BROKEN, "its weights take more than the device has")
    fleet.require("a", "a")
    task = fleet.begin(drawing())
    await settle()
    assert spread(fleet) == [0, 1]
    assert fleet.models["a"].state is ModelState.READY
    fleet.paper[1].finish()
    await task
    fleet.paper[1].statuses.moved("a", ModelState.BROKEN, "torn")
    with pytest.raises(ModelUnavailable):
        fleet.require("a", "a")
    assert str(fleet.models["a"].state) == "broken"


async def test_a_model_that_ends_two_workers_is_tried_by_no_third() -> None:
    """Each member counted for itself: a model that ends its workers ended two of each."""
    fleet = PaperFleet(3)
    for member in fleet.paper[:2]:
        member.statuses.told("b", ModelState.LOADING, "")
        member.die()
    with pytest.raises(ModelUnavailable):
        fleet.require("b", "b")
    assert fleet.paper[2].models["b"].state is ModelState.BROKEN
    assert fleet.paper[2].models["a"].state is ModelState.READY


async def test_slots_follow_the_members_that_are_up() -> None:
    fleet = PaperFleet(2, settings=Settings(running_jobs=4))
    queue = JobQueue(99, slots=fleet.slots)
    fleet.on_slots = queue.grant
    assert (fleet.slots(), fleet.slots(("cpu:1",))) == (8, 4)
    fleet.paper[0].die()
    assert fleet.slots() == 4
    held = [asyncio.create_task(hold(queue, f"k{number}")) for number in range(8)]
    await settle()
    assert (queue.running, queue.queued) == (4, 4)
    fleet.paper[0].come_up()
    await settle()
    assert (queue.running, queue.queued) == (8, 0), "nobody had to end for that"
    fleet.sleep("cpu:1")
    assert fleet.slots() == 8, "one that sleeps counts as up"
    for member in fleet.paper:
        member.asleep = False
        member.die()
    assert fleet.slots() == 4, "with none they wait as they do for a single worker"
    for task in held:
        task.cancel()


async def hold(queue: JobQueue, principal: str, lane: tuple[str, ...] = ()) -> None:
    async with queue.turn(principal, lane=lane):
        await asyncio.Event().wait()


async def test_a_crowd_for_one_device_holds_up_nobody_elses_turn() -> None:
    """A key's burst for a model that is bound to one device took the slots of all."""
    fleet = PaperFleet(2, settings=Settings(running_jobs=2))
    queue = JobQueue(99, slots=fleet.slots)
    crowd = [asyncio.create_task(hold(queue, "ada", ("cpu:1",))) for _ in range(6)]
    await settle()
    assert (queue.running, queue.queued) == (2, 4)
    other = asyncio.create_task(hold(queue, "ben"))
    await settle()
    assert (queue.running, queue.queued) == (3, 4)
    crowd[0].cancel()
    await settle()
    assert (queue.running, queue.queued) == (3, 3)
    for task in (*crowd, other):
        task.cancel()


async def test_turns_go_round_the_keys_over_all_devices() -> None:
    fleet = PaperFleet(2, settings=Settings(running_jobs=1))
    queue, order = JobQueue(99, slots=fleet.slots), list[str]()

    async def ask(principal: str, number: int) -> None:
        async with queue.turn(principal):
            order.append(principal)
            await draw(fleet, drawing(number, principal=principal))

    tasks = [asyncio.create_task(ask("ada", number)) for number in range(6)]
    await settle()
    tasks += [asyncio.create_task(ask("ben", number)) for number in range(10, 12)]
    while not all(task.done() for task in tasks):
        await settle()
        for member in fleet.paper:
            member.finish()
    assert order[:6] == ["ada", "ada", "ada", "ben", "ada", "ben"]


async def test_no_device_is_given_more_than_running_jobs_while_another_has_room() -> None:
    fleet = PaperFleet(2, settings=Settings(running_jobs=2))
    fleet.paper[0].has(B, load_s=1000.0)
    tasks = [fleet.begin(drawing(number, B)) for number in range(4)]
    await settle()
    assert spread(fleet) == [2, 2]
    for member in fleet.paper:
        member.finish()
    await asyncio.gather(*tasks)


async def test_who_draws_alone_has_one_device_alone_and_the_others_go_on() -> None:
    """Repeats of what was drawn at a death stopped all devices, one after another."""
    fleet = PaperFleet(2)
    task = fleet.begin(drawing(1))
    await settle()
    async with fleet.reserve(drawing(2), alone=True) as place:
        alone = place.member
        assert alone is fleet.paper[1]
        others = [fleet.begin(drawing(number)) for number in (3, 4)]
        await settle()
        assert spread(fleet) == [3, 0]
    fleet.paper[0].finish()
    await asyncio.gather(task, *others)


async def test_who_waits_to_be_alone_on_a_device_that_dies_goes_to_another() -> None:
    fleet = PaperFleet(2)
    fleet.paper[1].statuses.moved("a", ModelState.UNLOADED)  # so that all choose the first
    first = fleet.begin(drawing(1, steps=1))
    await settle()
    chosen = []

    async def be_alone() -> None:
        async with fleet.reserve(drawing(2, steps=1), alone=True) as place:
            chosen.append(place.member)

    waiting = asyncio.create_task(be_alone())
    await settle()
    assert not chosen
    fleet.paper[0].die()
    await asyncio.gather(first, return_exceptions=True)
    await waiting
    assert chosen == [fleet.paper[1]]


async def test_a_device_that_nobody_named_is_left_out_where_it_cannot_be_used() -> None:
    fleet = PaperFleet(2, optional=True)
    refusals: list[str] = []
    fleet.on_refused = refusals.append
    fleet.start()
    fleet.paper[0].on_refused("it is full")
    assert [member.name for member in fleet.members] == ["cpu:1"]
    assert fleet.left_out == {"cpu:0": "it is full"}
    assert fleet.device_problem == "cpu:0 is left out: it is full"
    task = fleet.begin(drawing())
    await settle()
    assert spread(fleet) == [0, 1]
    fleet.paper[1].finish()
    await task
    fleet.paper[1].on_refused("no driver")  # the last: the CPU, as a machine with one card has it
    assert [member.name for member in fleet.members] == ["cpu"]
    assert fleet.paper[2].story == ["start"]
    assert not refusals


async def test_a_device_that_is_named_stops_the_server_where_it_cannot_be_used() -> None:
    fleet = PaperFleet(2)
    refusals: list[str] = []
    fleet.on_refused = refusals.append
    fleet.paper[1].on_refused("it is full")
    assert refusals == ["cpu:1: it is full"]


async def test_metrics_tell_the_drawings_of_each_device() -> None:
    fleet = PaperFleet(2)
    tasks = [fleet.begin(drawing(number)) for number in range(3)]
    await settle()
    value = fleet.metrics.registry.get_sample_value
    assert [value("darkroom_device_drawings", {"device": f"cpu:{number}"}) for number in (0, 1)] == [2, 1]
    assert value("darkroom_model_ready", {"device": "cpu:1", "model": "a"}) == 1
    for member in fleet.paper:
        member.finish()
    await asyncio.gather(*tasks)
    assert [value("darkroom_device_drawings", {"device": f"cpu:{number}"}) for number in (0, 1)] == [0, 0]


async def test_what_a_worker_had_not_come_to_is_drawn_by_another() -> None:
    """Whoever came in the moment after a death, before the front knew of it, was answered 503 beside idle devices."""
    fleet = PaperFleet(2)
    task = fleet.begin(drawing())
    await settle()
    fleet.paper[0].die(started=False)
    await settle()
    assert spread(fleet) == [0, 1]
    fleet.paper[1].finish()
    await task
    last = fleet.begin(drawing(2))
    await settle()
    fleet.paper[1].die(started=False)
    with pytest.raises(WorkerLost):
        await last


async def test_what_is_known_of_a_folder_is_known_of_it_on_every_device() -> None:
    """A folder that is missing is found by the front, before any worker looks; what loads take is each device's own."""
    fleet = PaperFleet(2)
    fleet.models["b"] = ModelStatus(ModelState.BROKEN, "does not exist")
    first, second = (member.models["b"] for member in fleet.paper)
    assert (first.reason, second.reason) == ("does not exist", "does not exist")
    assert first.loads is not second.loads
    assert set(fleet.models) == {"a", "b", "one"}
