"""How many rows a call has: what memory, the pictures' size and compiled shapes allow."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import pytest
import torch

from pipelines.engine import run as run_module
from pipelines.engine.learning import StepCosts
from pipelines.engine.shared import SharedModule, Stage
from pipelines.errors import OutOfMemory
from pipelines.models import selfcheck
from tests.engine.conftest import SAME, Bench, decoder, denoiser, faulty, no_memory, observed
from tests.fixed_rows import FixedRows


def test_out_of_memory_halves_the_batch_and_is_remembered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = [bench.drawing(f"j{i}", seed=i, steps=2) for i in range(4)]
    alone = {drawing.job_id: bench.alone(drawing) for drawing in drawings}
    shared = denoiser(bench)
    monkeypatch.setattr(shared, "learned_rows", {})
    refused = []

    def raise_if(sample: torch.Tensor) -> None:
        if sample.shape[0] > 4:
            refused.append(sample.shape[0])
            raise torch.OutOfMemoryError("CUDA out of memory")

    faulty(monkeypatch, shared, raise_if)
    monkeypatch.setattr(shared, "costs", StepCosts())
    seen, engine = bench.draw(drawings)
    assert not seen.errors
    assert refused == [8], "the size that fitted is remembered, so it happens once"
    assert engine.counts["out_of_memory"] == 1
    for drawing in drawings:
        assert (seen.pictures[drawing.job_id] - alone[drawing.job_id]).abs().max() < SAME


def test_one_request_too_large_for_the_device_is_cut_by_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = bench.drawing("eight", n=4, steps=2)
    alone = bench.alone(drawing)
    shared = denoiser(bench)
    monkeypatch.setattr(shared, "learned_rows", {})

    def raise_if(sample: torch.Tensor) -> None:
        if sample.shape[0] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    faulty(monkeypatch, shared, raise_if)
    seen, _ = bench.draw([drawing])
    assert (seen.pictures["eight"] - alone).abs().max() < SAME


def test_no_room_even_for_one_row_is_refused_and_the_next_works(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = denoiser(bench)
    monkeypatch.setattr(shared, "learned_rows", {})
    with monkeypatch.context() as patch:

        def raise_if(sample: torch.Tensor) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        faulty(patch, shared, raise_if)
        seen, _ = bench.draw([bench.drawing("big")])
        assert isinstance(seen.errors["big"], OutOfMemory)
    seen, _ = bench.draw([bench.drawing("next")])
    assert "next" in seen.pictures


def test_the_cpus_out_of_memory_halves_the_batch_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for a bug in a forward: each run was tried alone, and what did not fit was answered 500."""
    shared = denoiser(bench)
    monkeypatch.setattr(shared, "learned_rows", {})
    monkeypatch.setattr(shared, "costs", StepCosts())
    refused = []

    def raise_if(sample: torch.Tensor) -> None:
        if sample.shape[0] > 4:
            refused.append(sample.shape[0])
            no_memory()

    faulty(monkeypatch, shared, raise_if)
    seen, engine = bench.draw([bench.drawing(f"j{i}", seed=i, steps=2) for i in range(4)])
    assert not seen.errors
    assert refused == [8]
    assert (engine.counts["out_of_memory"], engine.counts["retried_alone"]) == (1, 0)


@pytest.mark.parametrize("n", [1, 4])
def test_no_room_on_the_cpu_is_refused_as_such(bench: Bench, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    shared = denoiser(bench)
    monkeypatch.setattr(shared, "learned_rows", {})
    faulty(monkeypatch, shared, lambda sample: no_memory())
    seen, _ = bench.draw([bench.drawing("big", n=n)])
    assert isinstance(seen.errors["big"], OutOfMemory)


def test_no_room_in_a_runs_own_code_is_refused_as_such(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        no_memory()

    monkeypatch.setattr(run_module, "call_arguments", fail)
    seen, _ = bench.draw([bench.drawing("big")])
    assert isinstance(seen.errors["big"], OutOfMemory)


def test_at_most_one_decode_goes_between_two_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All decodes that waited went first: a crowd that ended together held up everybody else."""
    order: list[str] = []
    faulty(monkeypatch, denoiser(bench), lambda sample: order.append("step"))
    faulty(monkeypatch, decoder(bench), lambda sample: order.append("decode"))
    monkeypatch.setattr(decoder(bench), "learned_rows", dict.fromkeys(range(100_000), 1))
    short = [bench.drawing(f"s{i}", seed=i, steps=1) for i in range(3)]
    seen, _ = bench.draw([*short, bench.drawing("long", steps=8)])
    assert not seen.errors
    assert order.count("decode") == 4
    last = len(order) - 1 - order[::-1].index("step")
    pairs = list(itertools.pairwise(order[: last + 1]))
    assert ("decode", "decode") not in pairs, order


def test_a_decode_has_as_many_rows_as_its_pictures_size_allows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows were decoded together whatever their size: at 1024 x 1024, tens of GiB."""
    shared = decoder(bench)
    side = bench.model.plan.native_width
    sizes: list[int] = []
    faulty(monkeypatch, shared, lambda sample: sizes.append(sample.shape[0]))
    alone = bench.alone(bench.drawing("four", n=4, steps=1))
    assert sizes == [4]
    monkeypatch.setattr(shared, "learned_rows", {})
    area = next(call.area for call in observed(bench) if call.shared is shared)
    rows = {pixels: shared.most_rows(area * pixels**2 // side**2) for pixels in (256, 512, 1024, 1536)}
    assert rows == {256: 8, 512: 8, 1024: 2, 1536: 1}
    monkeypatch.setattr(shared, "learned_rows", {area: 3})
    sizes.clear()
    cut = bench.alone(bench.drawing("four", n=4, steps=1))
    assert sizes == [3, 1], "one request's too"
    assert (cut - alone).abs().max() < SAME


def test_a_cut_decode_that_does_not_fit_is_cut_smaller_and_remembered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = decoder(bench)
    alone = bench.alone(bench.drawing("five", n=5, steps=1))
    area = next(call.area for call in observed(bench) if call.shared is shared)
    monkeypatch.setattr(shared, "learned_rows", {area: 2})

    def raise_if(sample: torch.Tensor) -> None:
        if sample.shape[0] > 1:
            no_memory()

    faulty(monkeypatch, shared, raise_if)
    cut = bench.alone(bench.drawing("five", n=5, steps=1))
    assert shared.learned_rows == {area: 1}
    assert (cut - alone).abs().max() < SAME


def test_a_compiled_denoiser_sees_few_shapes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of rows was one more shape; now rows go up in buckets, and what fills them up changes nothing."""
    shared = denoiser(bench)
    drawings = [
        bench.drawing("a", steps=2, n=3),
        bench.drawing("b", steps=5, guidance=4.0, prompt="two dogs", scheduler="euler_a"),
        bench.drawing("c", steps=3, guidance=1.0, prompt="a city at night", seed=7),
    ]
    alone = {drawing.job_id: bench.alone(drawing) for drawing in drawings}
    sizes: list[int] = []
    faulty(monkeypatch, shared, lambda sample: sizes.append(sample.shape[0]))
    bench.draw(drawings)
    assert not set(sizes) <= {1, 2, 4, 8, 16, 32}
    sizes.clear()
    monkeypatch.setattr(shared, "compiled", True)
    seen, engine = bench.draw(drawings)
    assert set(sizes) <= {1, 2, 4, 8, 16, 32}
    assert engine.counts[f"{shared.name}_rows"] < sum(sizes), "only rows that were asked for are counted"
    for drawing in drawings:
        assert (seen.pictures[drawing.job_id] - alone[drawing.job_id]).abs().max() < SAME


def test_an_unshared_model_is_not_filled_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    faulty(monkeypatch, denoiser(bench), lambda sample: sizes.append(sample.shape[0]))
    monkeypatch.setattr(denoiser(bench), "compiled", True)
    monkeypatch.setattr(bench.model, "shares", False)
    bench.alone(bench.drawing("three", n=3, steps=1))
    assert sizes == [6]


def test_a_compiled_denoiser_is_warm_before_anybody_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = denoiser(bench)
    sizes: list[int] = []
    faulty(monkeypatch, shared, lambda sample: sizes.append(sample.shape[0]))
    monkeypatch.setattr(shared, "compiled", True)
    monkeypatch.setattr(shared, "costs", FixedRows(8))
    monkeypatch.setattr(shared, "warmed", None)
    monkeypatch.setattr(shared, "learned_rows", {})
    (area,) = {call.area for call in observed(bench) if call.shared is shared}
    selfcheck.check(bench.model)
    assert shared.most_rows(area) == 8
    assert sizes[-8:] == [1, 1, 2, 2, 4, 4, 8, 8], "once to compile, once to be timed"
    curve = shared.costs.curve()
    assert curve is not None
    assert {1, 2, 4, 8} <= {rows for rows, _, _ in curve.samples}

    def raise_if(sample: torch.Tensor) -> None:
        if sample.shape[0] > 4:
            no_memory()

    faulty(monkeypatch, shared, raise_if)
    selfcheck.check(bench.model)
    assert shared.most_rows(area) == 4, "and loads where the last of them does not fit"


def test_what_was_compiled_is_seen_by_itself() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert not SharedModule("unet", module, module, Stage.DENOISE).compiled
    module[0].compile(backend="eager")
    assert SharedModule("unet", module, module, Stage.DENOISE).compiled


def test_what_a_failed_step_made_is_let_go_of_before_the_next_try(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error's frames hold the forward's activations for as long as its handler runs: half a batch would not fit."""
    shared = denoiser(bench)
    monkeypatch.setattr(shared, "learned_rows", {})
    monkeypatch.setattr(shared, "costs", StepCosts())
    held: list[weakref.ref[torch.Tensor]] = []

    def raise_if(sample: torch.Tensor) -> None:
        assert not any(activation() is not None for activation in held)
        if sample.shape[0] > 1:
            activations = sample * 2
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory")

    faulty(monkeypatch, shared, raise_if)
    seen, _ = bench.draw([bench.drawing("a", n=4, steps=1), bench.drawing("b", n=4, seed=5, steps=1)])
    assert len(held) > 2
    assert not seen.errors


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_check_at_load_that_runs_out_of_memory_bounds_the_rows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    shared = denoiser(bench)
    monkeypatch.setattr(shared, "costs", StepCosts())
    monkeypatch.setattr(shared, "learned_rows", {})

    def raise_if(sample: torch.Tensor) -> None:
        if sample.shape[0] > 2:
            if device == "cpu":
                no_memory()
            raise torch.OutOfMemoryError("CUDA out of memory")

    faulty(monkeypatch, shared, raise_if)
    selfcheck.check(bench.model)
    assert list(shared.learned_rows.values()) == [2]
    area = next(iter(shared.learned_rows))
    assert shared.most_rows(area) == 2


def test_rows_beyond_the_bound_share_the_step_where_memory_has_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = denoiser(bench)
    monkeypatch.setattr(shared, "costs", FixedRows(8))
    monkeypatch.setattr(shared, "learned_rows", {})
    (area,) = {call.area for call in observed(bench) if call.shared is shared}
    assert shared.most_rows(area, waiting=10) == 10
    assert shared.most_rows(area, waiting=12) == 8, "so many are worth a step of their own"
    monkeypatch.setattr(shared, "learned_rows", {area: 9})
    assert shared.most_rows(area, waiting=10) == 9, "memory has no room for the tenth"

    monkeypatch.setattr(shared, "learned_rows", {})
    drawings = [bench.drawing(f"j{i}", seed=i, steps=3) for i in range(5)]  # two rows each
    rows: list[int] = []
    faulty(monkeypatch, shared, lambda sample: rows.append(sample.shape[0]))
    seen, _ = bench.draw(drawings)
    assert not seen.errors
    assert max(rows) == 10
