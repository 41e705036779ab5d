"""What an admin asks of a fleet."""

from __future__ import annotations

import asyncio

import pytest

from server.worker import fleet as fleet_module
from server.worker import protocol
from server.worker.status import ModelState
from tests.unit.worker.members import A, B, PaperFleet, drawing, settle

pytestmark = pytest.mark.anyio


async def test_an_admin_moves_models_on_one_device_or_on_all() -> None:
    fleet = PaperFleet(2)
    await fleet.load(B, "b", "cpu:1")
    fleet.leave(A, ModelState.UNLOADED, "cpu:0")
    await fleet.load(A, "a")
    assert [member.story for member in fleet.paper] == [["leave a", "load a"], ["load b", "load a"]]
    fleet.sleep("cpu:0")
    assert not fleet.asleep
    fleet.sleep()
    assert fleet.asleep
    fleet.wake("cpu:1")
    assert [member.asleep for member in fleet.paper] == [True, False]
    assert fleet.find("cuda:7") == ()
    assert fleet.find("cpu") == tuple(fleet.paper), "a kind stands for all of it"


async def test_an_unload_is_answered_when_the_model_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer came before the worker had heard of it, and said that the model was ready."""
    fleet = PaperFleet(2)
    for member in fleet.paper:
        monkeypatch.setattr(member, "leave", lambda plan, place: None)  # it does so later
    unloading = asyncio.create_task(fleet.unload(A, "cpu:0"))
    await settle()
    assert not unloading.done()
    fleet.paper[0].statuses.moved("a", ModelState.UNLOADED)
    await asyncio.wait_for(unloading, 60)
    assert fleet.states(A) == {"cpu:0": "unloaded", "cpu:1": "ready"}


@pytest.mark.parametrize("how", ["drawn", "loaded", "down", "busy for long"])
async def test_an_unload_is_not_waited_for_where_it_takes_as_long_as_others_like(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = PaperFleet(1)
    monkeypatch.setattr(fleet.paper[0], "leave", lambda plan, place: None)
    drawn: asyncio.Task[protocol.Finished] | None = None
    if how == "drawn":
        drawn = fleet.begin(drawing())
        await settle()
    elif how == "loaded":
        fleet.paper[0].statuses.moved("a", ModelState.LOADING)
    elif how == "down":
        fleet.paper[0].up = False
    else:
        monkeypatch.setattr(fleet_module, "_LEAVE_S", 0.0)
    await asyncio.wait_for(fleet.unload(A), 60)
    if drawn is not None:
        fleet.paper[0].finish()
        await drawn
