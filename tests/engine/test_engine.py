"""The engine: what is shared, who is spared, who goes first."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from typing import Any

import msgspec
import pytest
import torch

from pipelines.engine import preview
from pipelines.engine.engine import Engine
from pipelines.engine.learning import StepCosts
from pipelines.errors import Cancelled
from pipelines.plan import Drawing
from tests.engine.conftest import SAME, Bench, Seen, denoiser, faulty


def test_mixed_requests_share_steps_and_change_nothing(bench: Bench) -> None:
    drawings = [
        bench.drawing("a", steps=2, guidance=1.5),
        bench.drawing("b", steps=5, guidance=4.0, prompt="two dogs", scheduler="euler_a"),
        bench.drawing("c", steps=4, n=2, prompt="a city at night", seed=7, negative_prompt="a dog"),
        bench.drawing("d", steps=3, scheduler="dpmpp_2m"),
    ]
    alone = {drawing.job_id: bench.alone(drawing) for drawing in drawings}
    seen, engine = bench.draw(drawings)
    for drawing in drawings:
        assert (seen.pictures[drawing.job_id] - alone[drawing.job_id]).abs().max() < SAME
    assert engine.counts[f"{denoiser(bench).name}_forwards"] < 2 + 5 + 4 + 3


def test_n_pictures_are_the_pictures_of_their_seeds(bench: Bench) -> None:
    together = bench.alone(bench.drawing("n", n=4, seed=10))
    for index in range(4):
        one = bench.alone(bench.drawing("one", seed=10 + index))
        assert (together[index] - one[0]).abs().max() < SAME


def test_a_newcomer_joins_at_the_next_step(bench: Bench) -> None:
    seen, late = Seen(), threading.Event()
    engine = Engine(seen)
    ended = threading.Semaphore(0)

    def join(drawing: Drawing, done: int) -> None:
        if drawing.job_id == "long" and done == 2 and not late.is_set():
            late.set()
            engine.submit(bench.model, bench.drawing("late", steps=2), done=ended.release)

    seen.on_progress = join
    engine.submit(bench.model, bench.drawing("long", steps=12), done=ended.release)
    for _ in range(2):
        assert ended.acquire(timeout=120)
    engine.close()
    order = [name for name, done, of in seen.steps if done == of]
    assert order == ["late", "long"], "the short one left at once, it did not wait for the long one"
    assert engine.counts[f"{denoiser(bench).name}_forwards"] < 12 + 2


def test_cancelling_stops_at_the_next_step_and_spares_the_others(bench: Bench) -> None:
    kept = bench.drawing("kept", steps=6, prompt="a city at night")
    alone = bench.alone(kept)
    seen = Seen()
    engine = Engine(seen)
    ended = threading.Semaphore(0)
    seen.on_progress = lambda drawing, done: engine.cancel("gone") if drawing.job_id == "gone" and done == 2 else None
    engine.submit(bench.model, bench.drawing("gone", steps=30), kept, done=ended.release)
    for _ in range(2):
        assert ended.acquire(timeout=120)
    engine.close()
    assert isinstance(seen.errors["gone"], Cancelled)
    assert max(done for name, done, _ in seen.steps if name == "gone") <= 3
    assert (seen.pictures["kept"] - alone).abs().max() < SAME


def test_a_job_cancelled_before_it_starts_never_does(bench: Bench) -> None:
    seen = Seen()
    engine = Engine(seen)
    ended = threading.Semaphore(0)
    with engine._change:  # as if the loop were busy
        engine.submit(bench.model, bench.drawing("early", steps=20), done=ended.release)
        engine.cancel("early")
    assert ended.acquire(timeout=60)
    engine.close()
    assert isinstance(seen.errors["early"], Cancelled)
    assert not seen.steps


def test_one_runs_exception_ends_that_run_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = bench.drawing("good", steps=3), bench.drawing("bad", steps=3, seed=99)
    alone = bench.alone(good)

    def raise_if(sample: torch.Tensor) -> None:
        if sample.shape[0] > 2 or not bool(torch.equal(sample[0], sample[-1])):
            raise ValueError("a batch that holds the bad row")

    # Both rows of a guided run are equal; a batch of two runs fails, and is tried again run by run.
    faulty(monkeypatch, denoiser(bench), raise_if)
    seen, engine = bench.draw([good, bad])
    assert not seen.errors
    assert engine.counts["retried_alone"] >= 1
    assert (seen.pictures["good"] - alone).abs().max() < SAME


def test_an_unshared_model_draws_one_run_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = [bench.drawing("a"), bench.drawing("b", seed=2), bench.drawing("c", seed=3)]
    alone = {drawing.job_id: bench.alone(drawing) for drawing in drawings}
    monkeypatch.setattr(bench.model, "shares", False)
    seen, engine = bench.draw(drawings)
    assert engine.counts[f"{denoiser(bench).name}_forwards"] == 9
    names = [name for name, _, _ in seen.steps]
    assert names == sorted(names), "a run's steps are not mixed with another's"
    for drawing in drawings:
        assert torch.equal(seen.pictures[drawing.job_id], alone[drawing.job_id])


def test_every_step_is_reported(bench: Bench) -> None:
    seen, _ = bench.draw([bench.drawing("a", steps=4), bench.drawing("b", steps=2, seed=2)])
    assert [(done, of) for name, done, of in seen.steps if name == "a"] == [(i, 4) for i in range(1, 5)]
    assert [(done, of) for name, done, of in seen.steps if name == "b"] == [(1, 2), (2, 2)]


@pytest.mark.parametrize("scheduler", [None, "euler", "euler_a", "dpmpp_2m", "unipc"])
def test_previews_come_nearer_to_the_picture(bench: Bench, scheduler: str | None) -> None:
    drawing = msgspec.structs.replace(bench.drawing("a", steps=12, scheduler=scheduler), previews=3)
    seen, _ = bench.draw([drawing, bench.drawing("b", steps=6, seed=2)])
    assert [(name, done) for name, done, _ in seen.previews] == [("a", 3), ("a", 6), ("a", 9)]
    final = seen.pictures["a"]
    away = [float((picture - final).abs().mean()) for _, _, picture in seen.previews]
    assert away[0] > away[1] > away[2]
    plain = bench.alone(bench.drawing("a", steps=12, scheduler=scheduler))
    assert (plain - final).abs().max() < SAME, "looking changes nothing"


def test_nothing_is_left_behind(bench: Bench) -> None:
    """The integrity of an idle engine: no run, no call, no thread outlives its drawing."""
    before = threading.active_count()
    seen = Seen()
    engine = Engine(seen)
    ended = threading.Semaphore(0)
    for round_ in range(3):
        engine.submit(bench.model, *(bench.drawing(f"{round_}-{i}", steps=2) for i in range(3)), done=ended.release)
        for _ in range(3):
            assert ended.acquire(timeout=120)
    deadline = time.monotonic() + 5
    while not engine.idle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.idle, "tensors are let go of, too"
    engine.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("end", ["drawn", "failed", "cancelled"])
def test_a_runs_tensors_do_not_wait_for_the_garbage_collector(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(logging.getLogger("darkroom.engine"), "disabled", True)  # pytest keeps records' tracebacks
    samples: list[weakref.ref[torch.Tensor]] = []

    def raise_if(sample: torch.Tensor) -> None:
        samples.append(weakref.ref(sample))
        if end == "failed" and len(samples) == 3:
            raise ValueError("in the midst of it")

    faulty(monkeypatch, denoiser(bench), raise_if)
    seen, ended = Seen(), threading.Semaphore(0)
    engine = Engine(seen)
    if end == "cancelled":
        seen.on_progress = lambda drawing, done: engine.cancel(drawing.job_id)
    gc.collect()
    gc.disable()
    try:
        engine.submit(bench.model, bench.drawing("a"), done=ended.release)
        assert ended.acquire(timeout=60)
        engine.close()
        assert bool(seen.errors) == (end != "drawn")
        seen.errors.clear()
        assert samples
        assert not [sample for sample in samples if sample() is not None]
    finally:
        gc.enable()


def test_a_lost_device_ends_the_engine_not_just_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed assertion on the device every call fails: only another process helps."""

    def raise_if(sample: torch.Tensor) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    faulty(monkeypatch, denoiser(bench), raise_if)
    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    seen = Seen()
    engine = Engine(seen)
    engine.submit(bench.model, bench.drawing("a"), bench.drawing("b"))
    engine._thread.join(60)
    assert [args.exc_type for args in died] == [torch.AcceleratorError]
    assert not seen.errors, "the front answers for what a worker had when it ended"


@pytest.mark.parametrize("broken", ["clean_latents", "decodable", "to_picture"])
def test_a_preview_that_fails_harms_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*args: Any) -> Any:
        raise AttributeError("a pipeline without a vae")

    alone = bench.alone(bench.drawing("a"))
    monkeypatch.setattr(preview, broken, fail)
    seen, _ = bench.draw([msgspec.structs.replace(bench.drawing("a"), previews=2)])
    assert not seen.errors
    assert not seen.previews
    assert torch.equal(seen.pictures["a"], alone)


def test_each_step_of_the_denoiser_is_told_with_what_is_learnt_of_them(bench: Bench) -> None:
    told: list[tuple[str, int]] = []

    class Watching(Seen):
        def stepped(self, drawing: Drawing, costs: StepCosts) -> None:
            told.append((drawing.job_id, costs.steps))

    engine = Engine(Watching())
    before = denoiser(bench).costs.steps
    for name in ("a", "b"):
        ended = threading.Event()
        engine.submit(bench.model, bench.drawing(name, steps=4, n=2), done=ended.set)
        assert ended.wait(120)
    engine.close()
    assert [name for name, _ in told] == ["a"] * 4 + ["b"] * 4
    assert [steps - before for _, steps in told] == list(range(1, 9))
