"""Which models may be on the device: one load however many ask, no eviction while in use, the budget kept."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import msgspec
import pytest
import torch

from pipelines.errors import LoadRefused, OutOfMemory
from pipelines.models.residency import Place
from pipelines.plan import ModelPlan
from tests.running import eventually
from tests.unit.pipelines.models.residents import GIB, House


def test_many_askers_make_one_load() -> None:
    house = House()
    house.loading_s = 0.05
    threads = [threading.Thread(target=house.use, args=("a",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert house.loads == ["a"]


def test_the_least_recently_used_goes_and_comes_back() -> None:
    house = House()
    a, b = house.use("a"), house.use("b")
    house.residency.unpin(a)
    house.residency.unpin(b)
    house.residency.unpin(house.use("a"))  # now b is the older one
    house.use("c")
    assert ("b", Place.DISK) in house.moves
    assert house.residency.pin_if_ready(a) is not None
    assert house.residency.pin_if_ready(b) is None


def test_a_model_in_use_is_not_evicted_but_waited_for() -> None:
    house = House()
    a, _b = house.use("a"), house.use("b")
    assert house.residency.pin_if_ready(a) is not None  # pinned twice now
    house.use("b")  # the older one is a
    came = house.begin("c")
    assert not came.wait(0.1)
    house.residency.unpin(a)
    assert not came.wait(0.1)
    house.residency.unpin(a)
    assert came.wait(60)
    assert ("a", Place.DISK) in house.moves


def test_a_model_that_is_always_in_use_is_left_by_new_work_while_a_load_waits_for_it() -> None:
    """Under steady work its pins never reached none: the load waited for ever, and every other load behind it."""
    house = House()
    a, _b = house.use("a"), house.use("b")
    came = house.begin("c")
    eventually(lambda: house.residency.pin_if_ready(a) is None)
    for _ in range(house.pins(a)):
        house.residency.unpin(a)
    assert came.wait(60)
    assert house.moves[-2:] == [("a", Place.DISK), ("c", Place.DEVICE)]


def test_a_model_that_need_not_leave_after_all_stays() -> None:
    house = House()
    a, b = house.use("a"), house.use("b")
    came = house.begin("c")
    eventually(lambda: house.leaving() == ["a"])
    house.residency.unpin(b)
    assert came.wait(60)
    assert house.residency.pin_if_ready(a) is not None


def test_a_load_for_which_kept_models_leave_no_room_is_refused_and_holds_up_nobody() -> None:
    """It waited for ever, and every later load behind it, until the front ended the worker."""
    house = House(big=3 * GIB // 2, small=GIB // 4)
    house.residency.unpin(house.use("kept", keep=True))
    refused: list[BaseException] = []

    def ask() -> None:
        try:
            house.use("big")
        except LoadRefused as refusal:
            refused.append(refusal)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert house.begin("small").wait(60)
    thread.join(60)
    assert [str(refusal) for refusal in refused] == [
        "its weights take 1536 MiB; the device has 2304 MiB for weights, 1024 MiB of them for models that it keeps"
    ]
    assert ("big", Place.BROKEN) in house.moves


def test_work_on_other_models_does_not_wait_for_one_that_is_being_moved() -> None:
    """Moving takes seconds; the engine's thread and the one that reads messages stood still as long."""
    house = House(device="cuda")
    a, b = house.use("a"), house.use("b")
    house.residency.unpin(a)
    house.may_move.clear()
    came, done = house.begin("c"), threading.Event()
    assert house.moving.wait(60)

    def work() -> None:
        assert house.residency.pin_if_ready(b) is not None
        house.residency.unpin(b)
        assert house.residency.pin_if_ready(a) is None  # it is on its way
        done.set()

    threading.Thread(target=work, daemon=True).start()
    try:
        assert done.wait(60)
        assert not came.is_set()
    finally:
        house.may_move.set()
    assert came.wait(60)
    assert ("a", Place.HOST) in house.moves


def test_a_kept_model_stays() -> None:
    house = House()
    kept, b = house.use("kept", keep=True), house.use("b")
    house.residency.unpin(kept)
    house.residency.unpin(b)
    house.use("c")
    assert house.residency.pin_if_ready(kept) is not None
    assert ("b", Place.DISK) in house.moves


def test_a_broken_model_is_told_and_can_be_tried_again() -> None:
    house = House(broken="a")
    with pytest.raises(LoadRefused, match="torn"):
        house.use("a")
    assert house.moves[-1] == ("a", Place.BROKEN)
    house.broken = ""
    house.use("a")
    assert house.moves[-1] == ("a", Place.DEVICE)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "cpu"],
)
def test_a_model_that_memory_has_no_room_for_after_all_is_refused_as_such(error: Exception) -> None:
    house = House()
    house.error = error
    with pytest.raises(OutOfMemory, match="no room for the model"):
        house.use("a")
    assert house.moves[-1] == ("a", Place.BROKEN)


def test_a_driver_that_has_no_memory_is_no_lost_device() -> None:
    """It ended the process, with the drawings of all other models."""
    house = House()
    house.error = torch.AcceleratorError("CUDA error: out of memory")
    with pytest.raises(OutOfMemory, match="no room for the model"):
        house.use("a")
    assert house.moves[-1] == ("a", Place.BROKEN)


def test_a_lost_device_is_no_refusal() -> None:
    house = House()
    house.error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    with pytest.raises(torch.AcceleratorError):
        house.use("a")


def test_a_model_that_goes_to_disk_is_gone() -> None:
    """A pipeline and what drew on it refer to each other: without a collection their weights would stay."""
    house = House()
    plan = house.use("a")
    model: Any = house.residency.pin_if_ready(plan)
    model.itself = model
    weights = weakref.ref(model)
    del model
    for _ in range(2):
        house.residency.unpin(plan)
    house.use("b")
    gc.disable()
    try:
        house.use("c")
        assert weights() is None
    finally:
        gc.enable()


def test_host_memory_keeps_those_that_were_used_last() -> None:
    """Whoever came there first stayed for good, and all others were read from disk at every change."""
    house = House(device="cuda", on_host=1)
    house.visit("a", "b", "c")
    assert house.places() == {"a": Place.HOST, "b": Place.DEVICE, "c": Place.DEVICE}
    house.visit("d")
    assert house.places() == {"a": Place.DISK, "b": Place.HOST, "c": Place.DEVICE, "d": Place.DEVICE}


def test_models_that_change_places_on_a_full_host_are_not_read_from_disk() -> None:
    house = House(device="cuda", on_host=1)
    house.visit("a", "b", "c")
    for key in ("a", "b", "c", "a"):
        house.visit(key)
    assert house.loads == ["a", "b", "c"]


def test_a_model_that_leaves_host_memory_is_gone() -> None:
    house = House(device="cuda", on_host=1)
    model: Any = house.residency.pin(ModelPlan("a", "/models/a", "other"))
    house.residency.unpin(model.plan)
    model.itself = model
    weights = weakref.ref(model)
    del model
    house.visit("b", "c")
    assert weights() is not None
    gc.disable()
    try:
        house.visit("d")
        assert weights() is None
    finally:
        gc.enable()


def test_a_model_that_host_memory_never_holds_drives_nobody_out_of_it() -> None:
    house = House(device="cuda", on_host=1, big=2 * GIB)
    house.visit("a", "b", "big", "c")
    assert house.places() == {"a": Place.DISK, "b": Place.HOST, "big": Place.DISK, "c": Place.DEVICE}


def test_an_offloaded_model_goes_to_disk() -> None:
    """Its weights are in host memory already, and diffusers does not move them: nothing would become free."""
    house = House(device="cuda", big=9 * GIB // 4)
    house.residency.unpin(house.use("a", offload=True))
    house.visit("b", "big")
    assert house.places() == {"a": Place.DISK, "b": Place.HOST, "big": Place.DEVICE}


def test_an_offloaded_model_makes_room_last() -> None:
    """It gives little, and takes long to come back."""
    house = House(a=GIB // 8, c=5 * GIB // 4)
    house.residency.unpin(house.use("a", offload=True))
    house.visit("b", "c")
    assert house.places() == {"a": Place.DEVICE, "b": Place.DISK, "c": Place.DEVICE}
    house.visit("b", "d")  # c goes, and all three fit
    assert house.places()["a"] is Place.DEVICE


def test_a_model_that_host_memory_has_no_room_for_after_all_goes_to_disk() -> None:
    house = House(device="cuda")
    house.visit("a", "b")
    house.no_way_to = "cpu"
    house.visit("c")
    assert house.places() == {"a": Place.DISK, "b": Place.DEVICE, "c": Place.DEVICE}
    house.no_way_to = ""
    house.visit("a")
    assert house.loads == ["a", "b", "c", "a"]


def test_memory_that_cannot_be_pinned_is_no_lost_device() -> None:
    house = House(device="cuda")
    house.visit("a", "b")
    house.no_way_to, house.moving_error = "cpu", torch.AcceleratorError("CUDA error: out of memory")
    house.moving_error.error_code = 2  # type: ignore[attr-defined]
    house.visit("c")
    assert house.places()["a"] is Place.DISK
    house.moving_error.error_code = 710  # type: ignore[attr-defined]
    with pytest.raises(torch.AcceleratorError):
        house.visit("a")


def test_a_model_that_could_not_be_brought_back_is_read_from_disk() -> None:
    """Half of it may be on the device."""
    house = House(device="cuda")
    house.visit("a", "b", "c")
    house.no_way_to = "cuda"
    with pytest.raises(LoadRefused, match="can't allocate"):
        house.visit("a")
    house.no_way_to = ""
    house.visit("a")
    assert house.loads == ["a", "b", "c", "a"]
    assert house.places()["a"] is Place.DEVICE


def test_what_is_no_longer_served_leaves_once_nobody_uses_it() -> None:
    house = House()
    a, b = house.use("a"), house.use("b")
    house.residency.unpin(a)
    house.residency.serve([])
    house.residency.sweep()
    assert ("a", Place.DISK) in house.moves
    assert ("b", Place.DISK) not in house.moves
    assert not house.residency.has_leavers
    house.residency.unpin(b)
    assert house.residency.has_leavers
    house.residency.sweep()
    assert ("b", Place.DISK) in house.moves
    house.visit("a")  # of a request that was admitted before
    assert house.loads == ["a", "b", "a"]
    assert house.residency.has_leavers


def test_a_kept_model_that_is_no_longer_served_makes_room_for_its_successor() -> None:
    """A LoRA that was put into the folder of a kept model while it drew made its next load a refusal, by its own
    weights as they were before."""
    house = House(kept=3 * GIB // 2)
    old = house.use("kept", keep=True)
    new = msgspec.structs.replace(old, revision="2")
    house.residency.serve([new])
    house.residency.sweep()
    came = threading.Event()

    def bring() -> None:
        house.residency.pin(new)
        came.set()

    threading.Thread(target=bring, daemon=True).start()
    eventually(lambda: house.leaving() == ["kept"])
    house.residency.unpin(old)
    assert came.wait(60)
    assert house.residency.pin_if_ready(old) is None


def test_a_kept_model_that_is_served_again_before_it_made_room_stays() -> None:
    house = House(kept=3 * GIB // 2)
    old = house.use("kept", keep=True)
    house.residency.serve([])
    refused: list[BaseException] = []

    def bring() -> None:
        try:
            house.use("kept")
        except LoadRefused as refusal:
            refused.append(refusal)

    thread = threading.Thread(target=bring, daemon=True)
    thread.start()
    eventually(lambda: house.leaving() == ["kept"])
    house.residency.serve([old])
    house.residency.unpin(old)
    thread.join(60)
    assert [str(refusal) for refusal in refused] == ["models that the device keeps have left no room for it"]
    assert house.residency.pin_if_ready(old) is not None


def test_what_is_asked_away_leaves_once_nobody_uses_it_and_comes_back() -> None:
    house = House()
    a = house.use("a")
    house.residency.ask_away(a, Place.DISK)
    house.residency.sweep()
    assert house.places() == {"a": Place.DEVICE}
    house.residency.unpin(a)
    assert house.residency.has_leavers
    house.residency.sweep()
    assert house.places() == {"a": Place.DISK}
    assert not house.residency.has_leavers
    house.visit("a")
    assert not house.residency.has_leavers, "it was asked away once"


def test_a_copy_on_the_host_stays_while_the_model_is_on_the_device_until_others_need_the_room() -> None:
    """It was given back, and locked and copied anew each time that the model made room: seconds for real sizes."""
    house = House(device="cuda", on_host=2)
    house.visit("a", "b", "c")  # a leaves for c
    models = {plan.key: plan for plan in house.residency._residents}
    assert house.places()["a"] is Place.HOST
    house.visit("a")  # b leaves, and a's copy stays: both fit
    kept: Any = house.residency._residents[models["a"]].model
    assert kept.has_host_copy
    assert kept.tables == [], "what its classes had on the device is gone"
    house.visit("b")  # c leaves: there is room for two copies
    assert house.places() == {"a": Place.DEVICE, "b": Place.DEVICE, "c": Place.HOST}
    copies = [key for key, plan in models.items() if house.residency._residents[plan].model.has_host_copy]
    assert len(copies) == 2
    assert "c" in copies, "what is on the device has lost its copy first"
    house.visit("c", "a", "b", "c", "a")
    assert house.loads == ["a", "b", "c"], "nothing went to disk"
