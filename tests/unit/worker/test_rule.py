"""What the rule reckons with, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from server.worker import rule
from server.worker.cost import Cost
from server.worker.member import Flight
from server.worker.status import ModelState
from tests.unit.worker.members import COST as MEASURED
from tests.unit.worker.members import A, B, PaperFleet, PaperMember, drawing

PIXELS = 64 * 64
COST = Cost(fixed_s=0.5, row_s=0.1, pixels=PIXELS, most_rows=4)


@dataclass
class Device:
    """One device, described."""

    flights: list[Flight] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)
    awaited: tuple[str, ...] = ()
    crowded: bool = False

    def cost(self, key: str) -> Cost:
        return self.costs.get(key, COST)

    def load_s(self, key: str) -> float:
        return self.loads.get(key, 0.0)

    def crowds(self, key: str) -> bool:
        return self.crowded


def flight(key: str = "a", *, rows: int = 1, steps: int = 10, pixels: int = PIXELS) -> Flight:
    return Flight(key, rows, pixels, steps)


def test_an_idle_device_takes_its_own_steps() -> None:
    assert rule.finish_s(flight(rows=2), Device()) == pytest.approx(10 * (0.5 + 2 * 0.1))
    assert rule.finish_s(flight(pixels=4 * PIXELS), Device()) == pytest.approx(10 * (0.5 + 0.4))


def test_others_cost_their_rows_for_as_long_as_they_last() -> None:
    """Of the same model: no more than their rows, as steps are shared."""
    assert rule.finish_s(flight(), Device([flight(steps=3)])) == pytest.approx(10 * 0.6 + 3 * 0.1)
    assert rule.finish_s(flight(), Device([flight(steps=30)])) == pytest.approx(10 * 0.6 + 10 * 0.1)


def test_beyond_the_knee_a_step_is_two() -> None:
    crowd = [flight(steps=10) for _ in range(4)]
    assert rule.finish_s(flight(), Device(crowd)) == pytest.approx(10 * (2 * 0.5 + 0.1) + 4 * 10 * 0.1)


def test_another_models_steps_go_between_ours() -> None:
    others = [flight("b", steps=4), flight("b", steps=6)]
    assert rule.finish_s(flight(), Device(others)) == pytest.approx(10 * 0.6 + 10 * 0.1 + 6 * 0.5)


def test_loads_wait_for_each_other() -> None:
    device = Device(loads={"a": 3.0, "b": 5.0, "c": 7.0}, awaited=("b", "a"))
    assert rule.loads_s("a", device) == 8.0
    assert rule.loads_s("b", device) == 5.0
    assert rule.loads_s("c", device) == 15.0
    device.crowded = True
    assert rule.loads_s("c", device) == 8.0 + 7.0 * rule.EVICTION
    assert rule.loads_s("d", device) == 0.0


def test_of_equals_the_one_with_the_fewest_drawings_is_chosen() -> None:
    ended = Device([flight(steps=0)])
    idle = Device()
    assert rule.choose(flight(), [ended, idle]) is idle


def book(fleet: PaperFleet, number: int = 0) -> rule.Outlook:
    return fleet._books[number]


def told(member: PaperMember, key: str, cost: Cost) -> None:
    member.statuses.costs(key, cost)


def test_what_a_device_has_not_told_is_taken_from_another() -> None:
    fleet = PaperFleet(2)
    fleet.paper[1].has(B, load_s=7.0)
    assert book(fleet).load_s("a") == 0.0
    assert book(fleet).load_s("b") == 7.0
    told(fleet.paper[1], "b", COST)
    assert book(fleet).cost("b") == COST
    assert book(fleet).cost("a") == MEASURED
    fleet.paper[0].asleep = True
    assert book(fleet).load_s("b") > 7.0, "its process has to start first"


def guessed(row_s: float, steps: int = 0) -> Cost:
    return Cost(0.1, row_s, COST.pixels, 8, steps, guess=True)


def test_two_of_a_kind_are_not_told_apart_by_their_guesses() -> None:
    """Each guesses while it loads, beside the other's load: the one that came out dearer was given nothing, and so had
    nothing to learn from."""
    fleet = PaperFleet(2)
    told(fleet.paper[0], "a", guessed(0.01))
    told(fleet.paper[1], "a", guessed(0.03))
    assert book(fleet, 0).cost("a") == book(fleet, 1).cost("a")
    told(fleet.paper[1], "a", guessed(0.03, steps=4))
    assert book(fleet, 0).cost("a") == book(fleet, 1).cost("a") == guessed(0.03, steps=4)
    told(fleet.paper[0], "a", learnt := Cost(0.1, 0.02, COST.pixels, 8, 80))
    assert book(fleet, 0).cost("a") == book(fleet, 1).cost("a") == learnt, "what was learnt goes before any guess"


def test_a_device_goes_by_its_own_cost_once_it_has_steps_of_its_own() -> None:
    fleet = PaperFleet(2)
    told(fleet.paper[0], "a", learnt := Cost(0.1, 0.02, COST.pixels, 8, 80))
    told(fleet.paper[1], "a", own := guessed(0.08, steps=16))
    assert (book(fleet, 0).cost("a"), book(fleet, 1).cost("a")) == (learnt, own)


def test_devices_of_two_kinds_are_told_apart_by_their_guesses() -> None:
    fleet = PaperFleet(2)
    fleet.paper[1].device_name = "Another"
    told(fleet.paper[0], "a", first := guessed(0.01))
    told(fleet.paper[1], "a", second := guessed(0.03))
    assert (book(fleet, 0).cost("a"), book(fleet, 1).cost("a")) == (first, second)


def test_a_model_comes_back_from_host_memory_sooner_than_from_the_disk() -> None:
    fleet = PaperFleet(1)
    statuses = fleet.paper[0].statuses
    fleet.paper[0].has(B, load_s=20.0)
    for place in ("offloaded", "loading"):
        statuses.told("b", ModelState(place), "")
    statuses.told("b", ModelState("ready"), "", seconds=2.0)
    assert statuses.load_s("b") == 0.0
    statuses.told("b", ModelState("offloaded"), "")
    assert book(fleet).load_s("b") == 2.0
    statuses.told("b", ModelState("unloaded"), "")
    assert book(fleet).load_s("b") == 20.0


def test_a_model_crowds_where_the_room_is_taken() -> None:
    fleet = PaperFleet(2)
    fleet.paper[0].has(A, size=10, room=25)
    assert not book(fleet).crowds("b"), "of an unknown size it is taken for one like those that are there"
    fleet.paper[1].has(B, size=20)
    assert book(fleet).crowds("b")


def test_guided_steps_have_two_rows_a_picture() -> None:
    one = drawing(n=3)
    guided = replace(one, spec=replace(one.spec, guidance=7.0))
    assert (Flight.of(one).rows, Flight.of(guided).rows) == (3, 6)
    distilled = replace(guided, plan=replace(guided.plan, family="flux"))
    assert Flight.of(distilled).rows == 3, "its guidance is an input of the model"
