"""Whole models whose steps are CUDA graphs, on the fake device: the same pictures, and who has no graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from pipelines.engine import graphs as step_graphs
from pipelines.engine.graph_pool import GraphPool
from pipelines.engine.sink import KeepingSink
from pipelines.facts.families import FamilyTable
from pipelines.models import memory, replays
from pipelines.models.loader import LoadedModel
from pipelines.models.residency import Residency
from pipelines.plan import Drawing
from tests.device.fake import FakeCuda
from tests.device.placed import CUDA, placed
from tests.device.replaying import drawn_by_graphs, graphs, tally
from tests.families.drive import check, draw, drawing, run
from tests.families.tiny import build

SAME = 1e-5  # together; alone it is the same bit for bit


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of few steps are enough for a graph."""
    monkeypatch.setattr(step_graphs, "ASKED", 1)
    monkeypatch.setattr(step_graphs, "SAMPLES", 1)


def some(model: LoadedModel, *prompts: str, steps: int = 6) -> list[Drawing]:
    """A run for each prompt; guided, so with two rows a step, or two calls."""
    return [drawing(model, number, prompt, steps=steps, guidance=4.0) for number, prompt in enumerate(prompts)]


@pytest.mark.parametrize("name", ["SD ControlNet", "Z-Image"])
def test_pictures_are_those_of_kernel_by_kernel(fake_cuda: FakeCuda, name: str) -> None:
    plain, model = placed(name), drawn_by_graphs(placed(name, graphs=True))
    check(model)
    assert not tally(model).captured, "the check draws kernel by kernel"
    one = some(model, "a red apple")
    assert torch.equal(draw(model, one).pictures["0"], draw(plain, one).pictures["0"])
    alone = tally(model).replayed
    assert alone >= 2
    many = some(model, "a red apple", "two dogs")
    found, expected = draw(model, many), draw(plain, many)
    for job, picture in expected.pictures.items():
        assert float((found.pictures[job] - picture).abs().max()) <= SAME
    assert found.forwards == expected.forwards
    assert all(each.tally.replayed > alone for each in graphs(model)), "the ControlNet's too"
    assert not any(each.tally.dropped or each.tally.refused for each in graphs(model))
    assert not fake_cuda.mismatches
    assert not fake_cuda.unknown


def test_a_mask_that_is_read_is_no_reason_to_refuse_the_step_without_it(fake_cuda: FakeCuda) -> None:
    """Prompts of several lengths are masked, and Qwen-Image's denoiser waits for the numbers of a mask: those steps are
    launched kernel by kernel; those of the negative prompts, which are alike, are not."""
    model = drawn_by_graphs(placed("Qwen-Image", graphs=True))
    masks: list[bool] = []
    shared = next(shared for shared in model.shared_modules.values() if shared.is_denoiser)
    real = shared.function

    def seen(*args: Any, **kwargs: Any) -> Any:
        masks.append(kwargs.get("encoder_hidden_states_mask") is not None)
        return real(*args, **kwargs)

    shared.function = seen
    steps = 8
    draw(model, some(model, "a cat", "a long row of old red boats", steps=steps))
    assert sum(masks) == steps, "each step of the prompts is launched by itself"
    assert tally(model).captured == 1
    assert len(masks) + tally(model).replayed == 2 * steps + 1, "a capture draws its step, and records it"
    assert not tally(model).refused


def test_a_model_that_moves_loses_its_graphs_and_gets_others(fake_cuda: FakeCuda) -> None:
    model = drawn_by_graphs(placed("SD 1.x", graphs=True))
    one = some(model, "a red apple")
    before = draw(model, one).pictures["0"]
    assert tally(model).held == 1
    model.move(torch.device("cpu"))
    assert (tally(model).held, tally(model).dropped) == (0, {"its weights moved": 1})
    model.move(CUDA)
    replayed = tally(model).replayed
    assert torch.equal(draw(model, some(model, "a red apple")).pictures["0"], before)
    assert tally(model).captured == 2
    assert tally(model).replayed > replayed
    model.forget_tables()
    assert tally(model).dropped["the model left the device"] == 1


def test_an_encoder_that_finds_no_memory_has_that_of_graphs(fake_cuda: FakeCuda) -> None:
    model = drawn_by_graphs(placed("SD 1.x", graphs=True))
    draw(model, some(model, "a red apple"))
    fake_cuda.fail("aten.embedding", lambda: torch.OutOfMemoryError("CUDA out of memory"))
    draw(model, some(model, "a cat", steps=1))
    assert tally(model).dropped == {"memory was short": 1}


def test_a_step_that_finds_no_memory_has_that_of_graphs(fake_cuda: FakeCuda) -> None:
    model = drawn_by_graphs(placed("SD 1.x", graphs=True))
    draw(model, some(model, "a red apple"))
    fake_cuda.fail("convolution", lambda: torch.OutOfMemoryError("CUDA out of memory"))
    counts = run(model, some(model, "a cat", "a dog", steps=1), KeepingSink()).counts
    assert (counts["graphs_dropped_for_room"], counts["out_of_memory"]) == (1, 0)
    assert tally(model).dropped == {"memory was short": 1}


def test_a_decode_that_finds_no_memory_has_that_of_graphs(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decode takes more than any step; its module has no graphs of its own."""
    model = drawn_by_graphs(placed("SD 1.x", graphs=True))
    before = draw(model, some(model, "a red apple")).pictures["0"]
    decoder = next(shared for shared in model.shared_modules.values() if not shared.is_denoiser)
    real, full = decoder.function, [True]

    def decode(*args: Any, **kwargs: Any) -> Any:
        if full.pop() if full else False:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(decoder, "function", decode)
    assert torch.equal(draw(model, some(model, "a red apple")).pictures["0"], before)
    assert tally(model).dropped == {"memory was short": 1}


# Who has none.


def test_off(fake_cuda: FakeCuda) -> None:
    model = placed("SD 1.x")
    assert model.plan.cuda_graphs == "off"
    assert graphs(model) == []
    assert graphs(build("SD 1.x")) == [], "nor on the CPU"


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("SD 1.x", {}, ""),
        ("Lumina 2", {}, "a forward of lumina2 waits for the device"),
        ("Chroma", {}, "a forward of chroma waits for the device"),
        ("SD 1.x", {"offload": True}, "offload: its weights come and go"),
        ("SD 1.x", {"quantise": "nf4"}, "its weights are quantised"),
    ],
)
def test_why_a_models_steps_are_no_graphs(fake_cuda: FakeCuda, name: str, changes: dict[str, Any], why: str) -> None:
    model = placed(name, graphs=True)
    shared = next(shared for shared in model.shared_modules.values() if shared.is_denoiser)
    said = replays.why_not(shared, msgspec.structs.replace(model.plan, **changes), model.family)
    assert said.startswith(why)
    assert bool(said) == bool(why)


def test_a_model_without_graphs_says_why_and_draws(fake_cuda: FakeCuda) -> None:
    model = placed("Lumina 2", graphs=True)
    draw(model, some(model, "a cat"))
    assert (tally(model).captured, tally(model).reason) == (0, "a forward of lumina2 waits for the device")


def test_modules_that_cannot_be_captured_are_told_by_themselves(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = placed("SD 1.x", graphs=True)
    shared = next(shared for shared in model.shared_modules.values() if shared.is_denoiser)

    def why() -> str:
        return replays.why_not(shared, model.plan, model.family)

    with monkeypatch.context() as patched:
        patched.setattr(shared, "compiled", True)
        assert why().startswith("compile")
    with monkeypatch.context() as patched:
        patched.setattr(torch.version, "hip", "7.0")
        assert "AMD" in why()
    with monkeypatch.context() as patched:
        patched.setenv("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync")
        assert "cudaMallocAsync" in why()
    with monkeypatch.context() as patched:
        patched.setattr(next(shared.module.children()), "_hf_hook", object(), raising=False)
        assert "hooks" in why()
    next(shared.module.parameters()).quant_type = 2  # type: ignore[attr-defined]
    assert "quantised" in why()


def test_an_unknown_family_has_none() -> None:
    assert FamilyTable().by_name.get("other") is None
    assert FamilyTable().detect(Path("/nowhere")).forward_waits


# Where memory is counted.


def test_graphs_are_counted_beside_weights_and_go_before_a_load_fails(fake_cuda: FakeCuda) -> None:
    pool = GraphPool(CUDA)
    model = placed("SD 1.x")
    plan = msgspec.structs.replace(model.plan, cuda_graphs="auto")
    model = drawn_by_graphs(LoadedModel(plan, model._base, model.family, CUDA, graphs=pool))
    draw(model, some(model, "a red apple"))
    assert pool.held == 1
    resident, share = model.weight_bytes(), int(fake_cuda.memory.limit * memory.WORKING_SHARE)
    budgets = [memory.device_budget(CUDA, resident, held) for held in (share, share + 1000)]
    assert budgets[0] - budgets[1] == 1000, "what is more than work may take is nobody's to give"

    loads: list[str] = []
    residency = Residency(
        lambda wanted: loads.append(f"{wanted.key} {pool.held}") or model,  # type: ignore[func-returns-value]
        lambda wanted: int(wanted.key),
        lambda *moved: None,
        device=CUDA,
        budget=1 << 50,
        graphs=pool,
    )
    free, _ = torch.cuda.mem_get_info(CUDA)
    for size in (free // 2, free + pool.bytes):
        residency.pin(msgspec.structs.replace(plan, key=str(size)))
    assert [line.split()[1] for line in loads] == ["1", "0"]
    assert tally(model).dropped == {"another model needed the memory": 1}
