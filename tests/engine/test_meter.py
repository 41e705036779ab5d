"""Seconds of the device: whose they are, and that none are counted twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines.engine.call import Call
from pipelines.engine.engine import Engine
from pipelines.engine.meter import Meter
from pipelines.errors import DrawError
from pipelines.plan import Drawing
from tests.engine.conftest import Bench, Seen, denoiser


class Metered(Seen):
    """What each drawing took, and what was left out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.after_end: list[str] = []
        self._ended: set[str] = set()

    def took(self, drawing: Drawing, seconds: float) -> None:
        self.seconds[drawing.job_id] += seconds  # type: ignore[assignment]
        self.after_end += [drawing.job_id] if drawing.job_id in self._ended else []

    def left_out(self, drawing: Drawing) -> None:
        self.skipped[drawing.job_id] += 1

    def drawn(self, drawing: Drawing, drawn: torch.Tensor) -> None:
        self._ended.add(drawing.job_id)

    def failed(self, drawing: Drawing, error: DrawError) -> None:
        super().failed(drawing, error)
        self._ended.add(drawing.job_id)


def test_shares_of_drawings_that_share_steps_are_no_more_than_the_time_that_passed(bench: Bench) -> None:
    seen = Metered()
    drawings = [bench.drawing("one", steps=12), bench.drawing("three", steps=12, n=3, seed=5)]
    began_s = time.perf_counter()
    bench.draw(drawings, seen)
    passed_s = time.perf_counter() - began_s
    assert not seen.errors
    assert 0.4 * passed_s < sum(seen.seconds.values()) <= passed_s
    assert 1.8 < seen.seconds["three"] / seen.seconds["one"] < 4.2, "three pictures have three times the rows"
    assert not seen.after_end


def test_a_forward_that_fails_is_paid_by_whom_it_was_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        time.sleep(0.05)
        raise ValueError("no")

    monkeypatch.setattr(denoiser(bench), "function", fail)
    seen = Metered()
    bench.draw([bench.drawing("a")], seen)
    assert "a" in seen.errors
    assert seen.seconds["a"] >= 0.05


def test_a_drawing_that_is_cancelled_has_taken_what_it_was_drawn(bench: Bench) -> None:
    seen, ended = Metered(), threading.Semaphore(0)
    engine = Engine(seen)
    seen.on_progress = lambda drawing, done: engine.cancel(drawing.job_id) if done == 3 else None
    engine.submit(bench.model, bench.drawing("a", steps=50), done=ended.release)
    assert ended.acquire(timeout=60)
    engine.close()
    assert "a" in seen.errors
    assert seen.seconds["a"] > 0
    assert len(seen.steps) == 3
    assert not seen.after_end


def test_steps_that_are_left_out_are_told_before_their_progress(bench: Bench) -> None:
    seen = Metered()
    _, engine = bench.draw([bench.drawing("a", steps=20, scheduler="ddim", step_cache=0.5)], seen)
    assert seen.skipped["a"] == engine.counts["answered_from_cache"] == 8
    assert len(seen.steps) == 20


def test_a_cuda_device_is_asked_when_it_has_ended_and_waited_for_at_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock is read, not the host's, which is ahead of it."""
    device_ms, done, waits = [0.0], [False], list[float]()

    class Event:
        def __init__(self, **_: Any) -> None: ...

        def record(self, stream: object) -> None:
            self.at = device_ms[0]

        def query(self) -> bool:
            return done[0]

        def synchronize(self) -> None:
            waits.append(self.at)
            done[0] = True

        def elapsed_time(self, later: Event) -> float:
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    taken: Counter[str] = Counter()

    def took(drawing: Drawing, seconds: float) -> None:
        taken[drawing.job_id] += round(seconds * 1000)

    meter, cuda = Meter(took), torch.device("cuda")
    drawings = bench.drawing("a"), bench.drawing("b")
    calls = [cast(Call, SimpleNamespace(drawing=drawing, rows=2 + 4 * i)) for i, drawing in enumerate(drawings)]
    for _ in range(2):
        with meter.time(calls, cuda):
            device_ms[0] += 800
    assert not taken, "nothing is waited for in between"
    meter.settle()
    assert waits == [800.0]
    assert taken == {"a": 400, "b": 1200}
    with meter.time(calls[:1], cuda):
        device_ms[0] += 100
    with meter.time(calls[1:], cuda):
        device_ms[0] += 100
    assert taken == {"a": 500, "b": 1200}, "read at a later forward"
