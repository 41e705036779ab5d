"""The engine learns what steps cost from the steps that it takes, and from no others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.engine import stopwatch
from pipelines.engine.learning import Curve, StepCosts
from pipelines.engine.stopwatch import CudaStopwatch
from tests.engine.conftest import Bench, decoder, denoiser, faulty, observed

FIXED_S, ROW_S = 0.024, 0.001


class PaperClock:
    """Goes on by what a forward of so many rows takes."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sizes: list[int] = []

    def forward(self, sample: torch.Tensor) -> None:
        self.sizes.append(len(sample))
        self.now_s += FIXED_S + ROW_S * len(sample)


@pytest.fixture
def clock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> PaperClock:
    """The denoiser's forwards take computed time, and nothing is known of it."""
    made = PaperClock()
    shared = denoiser(bench)
    faulty(monkeypatch, shared, made.forward)
    monkeypatch.setattr(shared, "costs", StepCosts())
    monkeypatch.setattr(shared, "learned_rows", {})
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: made.now_s))
    return made


def test_the_engine_learns_the_cost_of_its_steps(bench: Bench, clock: PaperClock) -> None:
    bench.draw([bench.drawing("alone", steps=4)])
    bench.draw([bench.drawing(f"{n}", seed=n, steps=6) for n in range(4)])
    costs = denoiser(bench).costs
    cost = costs.cost()
    assert cost is not None
    assert cost.fixed_s == pytest.approx(FIXED_S, rel=0.01)
    assert cost.row_s == pytest.approx(ROW_S, rel=0.05)
    assert costs.steps == len(clock.sizes)
    assert not costs.is_guess


def test_a_bound_that_is_too_low_is_found_out_under_load(
    bench: Bench, clock: PaperClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that had been loaded on a busy machine shared no more rows a step for as long as it was there."""
    shared = denoiser(bench)
    drawings = [bench.drawing(f"{n}", seed=n, steps=16) for n in range(9)]
    (area,) = {call.area for call in observed(bench) if call.shared is shared}
    clock.sizes.clear()
    monkeypatch.setattr(shared, "costs", StepCosts(Curve(area, ((2, 0.2, 0.01), (4, 0.4, 0.01)), min_rows=2)))
    assert shared.most_rows(area) == 2
    seen, _ = bench.draw(drawings)
    assert not seen.errors
    assert clock.sizes[:4] == [2, 2, 2, 4]
    assert max(clock.sizes) >= 14
    assert len(clock.sizes) < 9 * 16 / 3


def test_steps_that_failed_and_decodes_are_not_learnt_from(
    bench: Bench, clock: PaperClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = denoiser(bench)

    def raise_if(sample: torch.Tensor) -> None:
        if len(sample) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    faulty(monkeypatch, shared, raise_if)
    seen, engine = bench.draw([bench.drawing("four", n=2, steps=3)])
    assert not seen.errors
    assert engine.counts["out_of_memory"] == 1
    assert shared.costs.steps == 0, "cut by rows at every step"
    bench.draw([bench.drawing("two", steps=3)])
    assert shared.costs.steps == 3
    assert decoder(bench).costs.steps == 0


class Event:
    """One that the device reaches when it is told to."""

    reached: set[int]
    made: list[Event]

    def __init__(self, **_: Any) -> None:
        self.number = len(Event.made)
        Event.made.append(self)

    def record(self, stream: Any) -> None: ...

    def query(self) -> bool:
        return self.number in Event.reached

    def elapsed_time(self, other: Event) -> float:
        return 10.0


class Memory:
    """Of a device that there is not: a row takes 300 bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free = free
        self.asked = 0
        self.rows = 0
        Event.reached, Event.made = set(), []
        for name, function in {
            "Event": Event,
            "current_stream": lambda device: None,
            "reset_peak_memory_stats": lambda device: None,
            "mem_get_info": self._look,
            "memory_allocated": lambda device: 5000,
            "memory_reserved": lambda device: 5500,
            "max_memory_allocated": lambda device: 5000 + 300 * self.rows,
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)

    def _look(self, device: Any) -> tuple[int, int]:
        self.asked += 1
        return self.free, 10_000


def test_a_devices_forwards_are_read_when_it_has_ended_them(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 1500)
    told: list[tuple[int, int, float]] = []
    watch = CudaStopwatch(lambda *found: told.append(found), torch.device("cuda"))
    memory.rows = 2
    for _ in range(3):
        with watch.time(2, 256):
            pass
    assert not told, "nobody waits for the device"
    Event.reached = {0, 1}
    watch.read()
    assert told == [(2, 256, 0.01)]
    Event.reached |= {2, 3}
    with watch.time(2, 256):
        pass
    assert len(told) == 2, "three, but for the first of its shape, which chooses kernels"


def test_no_more_rows_are_tried_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches grew until the device was full, on purpose, while other models drew: their steps found no room."""
    memory = Memory(monkeypatch, 1500)
    watch = CudaStopwatch(lambda *_: None, torch.device("cuda"))
    assert watch.fitting(16, 256) == 16, "nothing is known yet"
    memory.rows = 2
    with watch.time(2, 256):
        pass
    assert watch.fitting(2, 256) == 2
    assert memory.asked == 0
    assert [watch.fitting(8, 256) for _ in range(100)] == [5] * 100, "1,500 of the 2,000 bytes"
    assert watch.fitting(8, 64) == 8, "of smaller pictures more"
    assert memory.asked == 2
    memory.free = 8000
    assert [watch.fitting(8, 256) for _ in range(256)][-1] == 8, "looked at again after a while"
