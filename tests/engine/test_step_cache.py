"""Steps that a run leaves out: its neighbours are what they are alone, and so is it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
import torch

from pipelines.engine.engine import Engine
from pipelines.engine.step_cache import StepCache
from pipelines.errors import Cancelled
from pipelines.facts.step_cache import Check, Plan, planned
from pipelines.plan import Drawing
from pipelines.spec import Pixels
from tests.engine.conftest import SAME, Bench, Seen, denoiser


def forwards(bench: Bench, engine: Engine) -> int:
    return engine.counts[f"{denoiser(bench).name}_forwards"]


def test_a_plan_leaves_out_its_steps_and_a_check_some(bench: Bench) -> None:
    for steps, scheduler, strength, computed in (
        (20, "ddim", 0.5, 12),
        (30, "dpmpp_2m", 0.5, 18),
        (30, "euler", 1.0, 13),
        (20, "ddim", 0.0, 20),
        (20, "euler_a", 0.5, 20),
        (11, "ddim", 0.5, 11),
    ):
        _, engine = bench.draw([bench.drawing("a", steps=steps, scheduler=scheduler, step_cache=strength)])
        assert forwards(bench, engine) == computed, (steps, scheduler, strength)
        assert engine.counts["answered_from_cache"] == steps - computed
        assert engine.counts["cache_reads"] == 0, "a plan reads no number"
    _, engine = bench.draw([bench.drawing("a", steps=16, scheduler="ddim", step_cache=0.5)])
    assert 6 <= forwards(bench, engine) < 16
    assert 0 < engine.counts["cache_reads"] <= 16


@pytest.mark.parametrize("scheduler", ["euler_a", "lcm"])
def test_where_nothing_is_left_out_the_picture_is_the_same(bench: Bench, scheduler: str) -> None:
    plain = bench.alone(bench.drawing("a", steps=12, scheduler=scheduler))
    assert torch.equal(bench.alone(bench.drawing("a", steps=12, scheduler=scheduler, step_cache=1.0)), plain)


def test_runs_with_and_without_share_steps_and_change_nothing(bench: Bench) -> None:
    """An early try gave neighbours' rows to those that left the batch."""
    drawings = [
        bench.drawing("plan", steps=20, step_cache=0.5, scheduler="ddim"),
        bench.drawing("plain", steps=14, seed=3, prompt="two dogs", scheduler="ddim"),
        bench.drawing("check", steps=15, seed=5, step_cache=1.0, prompt="a city at night", scheduler="dpmpp_2m"),
        bench.drawing("several", steps=24, n=2, seed=7, step_cache=1.0, scheduler="unipc", guidance=1.0),
        bench.drawing("short", steps=5, seed=9, step_cache=1.0),
    ]
    alone = {drawing.job_id: bench.draw([drawing]) for drawing in drawings}
    seen, engine = bench.draw(drawings)
    assert engine.counts["retried_alone"] == 0
    answers = sum(each.counts["answered_from_cache"] for _, each in alone.values())
    assert engine.counts["answered_from_cache"] == answers
    for name, (kept, _) in alone.items():
        assert (seen.pictures[name] - kept.pictures[name]).abs().max() < SAME, name
    plan = msgspec.structs.replace(drawings[0], spec=msgspec.structs.replace(drawings[0].spec, step_cache=0.0))
    assert (bench.alone(plan) - seen.pictures["plan"]).abs().max() > 10 * SAME, "steps were told, and that shows"


def test_several_pictures_of_a_plan_are_those_of_their_seeds(bench: Bench) -> None:
    fields: dict[str, Any] = {"steps": 20, "step_cache": 0.5, "scheduler": "ddim"}
    together = bench.alone(bench.drawing("n", n=2, seed=10, **fields))
    for index in range(2):
        one = bench.alone(bench.drawing("one", seed=10 + index, **fields))
        assert (together[index] - one[0]).abs().max() < SAME


def test_an_edit_counts_the_steps_that_it_makes(bench: Bench) -> None:
    side = bench.model.plan.native_width
    source = Pixels(side, side, "RGB", bytes(range(256)) * (side * side * 3 // 256))
    fields: dict[str, Any] = {"sources": (source,), "strength": 0.6, "scheduler": "ddim", "step_cache": 0.5}
    for steps, computed in ((15, 9), (40, 14)):  # 9 are too few; of 24 two fifths are left out
        _, engine = bench.draw([bench.drawing("a", steps=steps, **fields)])
        assert forwards(bench, engine) == computed


def test_a_run_that_leaves_holds_nothing_and_harms_nobody(bench: Bench) -> None:
    fields: dict[str, Any] = {"steps": 20, "step_cache": 1.0, "scheduler": "ddim"}
    plain = bench.drawing("plain", steps=8, seed=3)
    alone = bench.alone(plain)
    for at in (1, 4, 9):
        seen = Seen()
        engines: list[Engine] = []

        def leave(drawing: Drawing, done: int, at: int = at, engines: list[Engine] = engines) -> None:
            if drawing.job_id == "leaves" and done == at:
                engines[0].cancel("leaves")

        seen.on_progress = leave
        engines.append(Engine(seen))
        engines[0].submit(bench.model, bench.drawing("leaves", **fields), plain)
        engines[0].close()
        assert isinstance(seen.errors["leaves"], Cancelled)
        assert (seen.pictures["plain"] - alone).abs().max() < SAME


def test_previews_change_nothing(bench: Bench) -> None:
    drawing = bench.drawing("a", steps=20, step_cache=0.5, scheduler="ddim")
    previewed = Drawing(drawing.job_id, drawing.plan, drawing.spec, drawing.seeds, drawing.principal, previews=3)
    seen, _ = bench.draw([previewed])
    assert len(seen.previews) == 3
    assert torch.equal(seen.pictures["a"], bench.alone(drawing))
    assert seen.steps[-1] == ("a", 20, 20)


# By itself


def drive(
    cache: StepCache, outputs: list[float], targets: tuple[str, ...] = ("main",)
) -> tuple[list[int], Counter[str]]:
    """Make a run's calls; the steps that were computed, and how many calls of each target."""
    computed, calls, steps = list[int](), Counter[str](), len(outputs)
    cache.told([1 - step / steps for step in range(steps)])
    for step, output in enumerate(outputs):
        for target in targets:
            question = cache.question()
            cache.decide(None if question is None else float(question.number))
            answer = cache.answer(target)
            if answer is None:
                cache.keep(target, (torch.tensor([output]),), is_main=target == "main")
                calls[target] += 1
                computed.append(step)
            else:
                assert torch.allclose(answer[0], torch.tensor([output]), atol=1e-5)
        cache.stepped(step + 1, steps)
    return computed, calls


def test_what_lies_on_a_line_is_told_from_it() -> None:
    line = [2.0 - 0.1 * step for step in range(20)]
    computed, _ = drive(StepCache(lambda steps: Plan(planned(steps, 0.4))), line)
    assert computed == [step for step in range(20) if step not in planned(20, 0.4)]
    computed, _ = drive(StepCache(lambda steps: Check(0.01)), line)
    assert computed == [0, 1, 2, 6, 10, 14, 18, 19], "three in a row at most, and the last is computed"


def test_calls_of_a_step_are_left_out_together() -> None:
    """Halves of guidance, and a ControlNet before them."""
    line = [2.0 - 0.1 * step for step in range(20)]
    _, calls = drive(StepCache(lambda steps: Check(0.01)), line, ("control", "main", "main"))
    assert calls == {"control": 8, "main": 16}


def test_jumps_are_computed() -> None:
    """The check sees that what it told last was wrong."""

    outputs = [(-1.0) ** step for step in range(16)]
    cache = StepCache(lambda steps: Check(0.05))
    cache.told([1 - step / 16 for step in range(16)])
    for step, output in enumerate(outputs):
        question = cache.question()
        cache.decide(None if question is None else float(question.number))
        assert cache.answer("main") is None
        cache.keep("main", (torch.tensor([output]),), is_main=True)
        cache.stepped(step + 1, 16)


@pytest.mark.parametrize("times", [[1.0] * 12, [0.5, 0.6, *[0.4 - 0.01 * i for i in range(10)]], []])
def test_times_that_do_not_fall_leave_nothing_out(times: list[float]) -> None:
    cache = StepCache(lambda steps: Plan(frozenset(range(3, 11))))
    cache.told(times)
    for step in range(12):
        cache.decide(None)
        assert cache.answer("main") is None
        cache.keep("main", torch.ones(1), is_main=True)
        cache.stepped(step + 1, 12)


def test_outputs_of_another_shape_begin_anew() -> None:
    cache = StepCache(lambda steps: Plan(frozenset({4, 6, 8})))
    cache.told([1 - step / 12 for step in range(12)])
    left_out = []
    for step in range(12):
        cache.decide(None)
        if cache.answer("main") is None:
            cache.keep("main", torch.ones(1 if step < 3 else 2), is_main=True)
        else:
            left_out.append(step)
        cache.stepped(step + 1, 12)
    assert left_out == [6, 8], "of step 3 alone no line can be drawn"
