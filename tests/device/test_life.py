"""A model's life on the fake device: away to host memory and back, out of memory in a shared step, a device lost."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.engine.engine import Engine
from pipelines.engine.sink import KeepingSink
from pipelines.models import transfer, tuning
from pipelines.models.loader import LoadedModel, load, weight_bytes
from pipelines.plan import Drawing, ModelPlan
from server.catalog.catalog import Catalog
from tests.device.cards import MIB
from tests.device.fake import FakeCuda
from tests.device.pinned import PinnedMemory
from tests.device.placed import CUDA, placed
from tests.families.drive import check, draw, drawing, run

SAME = 1e-5


def four(model: LoadedModel) -> list[Drawing]:
    return [drawing(model, number, "a red apple", steps=3 + number % 2, guidance=4.0) for number in range(4)]


def test_a_model_goes_to_pinned_memory_and_comes_back_the_same(fake_cuda: FakeCuda) -> None:
    model = placed("SD 1.x")
    before = draw(model, four(model)[:1]).pictures["0"]
    gc.collect()
    in_use = torch.cuda.memory_allocated()
    weights = {name: value.clone() for name, value in _weights(model)}
    fake_cuda.waits.clear()
    model.move(torch.device("cpu"))
    assert all(tensor.is_pinned() for _, tensor in model_tensors(model) if tensor.numel())
    assert fake_cuda.pinned.in_use == model.host_bytes()
    assert [wait.kind for wait in fake_cuda.waits.counts] == ["stream.synchronize"], "it waits once, for all copies"
    assert torch.cuda.memory_allocated() < in_use / 10, "no weights are left there"
    model.move(CUDA)
    assert len(fake_cuda.waits) == 2
    assert fake_cuda.pinned.in_use == model.host_bytes(), "the copy stays for the next time"
    assert {name: value.tolist() for name, value in _weights(model)} == {n: v.tolist() for n, v in weights.items()}
    assert torch.equal(draw(model, four(model)[:1]).pictures["0"], before), "bit for bit"
    fake_cuda.waits.clear()
    model.move(torch.device("cpu"))
    assert not fake_cuda.waits.counts, "nothing is copied twice"
    assert torch.cuda.memory_allocated() < in_use / 10
    model.move(CUDA)
    model.forget_host_copy()
    assert fake_cuda.pinned.in_use == 0
    assert torch.equal(draw(model, four(model)[:1]).pictures["0"], before)


def test_weights_come_from_files_by_page_locked_buffers_on_a_stream_of_their_own(fake_cuda: FakeCuda) -> None:
    """On the default stream each copy waited for the steps of other models, and was waited for."""
    assert placed("SD 1.x").host_bytes()
    copies = [wait for wait in fake_cuda.waits.counts if wait.kind.startswith("H2D")]
    assert not copies, "none is from memory that is not page-locked"
    assert fake_cuda.waits.of(kind="stream.synchronize", site="transfer.py")
    gc.collect()
    assert fake_cuda.pinned.in_use == 0, "the buffers go when the model is there"


@pytest.mark.fake_cuda(pinned=PinnedMemory(limit=MIB))
def test_a_model_for_which_no_memory_can_be_locked_stays_whole_on_its_device(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "STAGE_BYTES", 1 << 16)
    model = placed("SD 1.x")
    before = draw(model, four(model)[:1]).pictures["0"]
    fake_cuda.pinned.empty_cache()
    held = torch.empty(700_000, dtype=torch.uint8, pin_memory=True)
    with pytest.raises(torch.AcceleratorError, match="out of memory"):
        model.move(torch.device("cpu"))
    del held
    assert torch.equal(draw(model, four(model)[:1]).pictures["0"], before)


def model_tensors(model: LoadedModel) -> list[tuple[str, torch.Tensor]]:
    modules = {name: part for name, part in model._base.components.items() if isinstance(part, torch.nn.Module)}
    return [
        (f"{name}.{key}", tensor)
        for name, module in modules.items()
        for key, tensor in (*module.named_parameters(), *module.named_buffers())
    ]


def _weights(model: LoadedModel) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor.detach().cpu()) for name, tensor in model_tensors(model)[::20]]


def test_out_of_memory_in_a_shared_step_draws_the_right_pictures(fake_cuda: FakeCuda) -> None:
    model = placed("SD 1.x")
    check(model)
    memory = fake_cuda.memory
    peaks: list[int] = []
    alone: dict[str, torch.Tensor] = {}
    for drawings in (four(model), *([one] for one in four(model))):
        gc.collect()
        memory.reset_peaks()
        alone |= draw(model, drawings).pictures
        peaks.append(memory.peak_allocated)
    gc.collect()
    at_rest = memory.allocated
    memory.limit = (peaks[0] + max(peaks[1:])) // 2  # one fits, four do not
    sink = KeepingSink()
    engine = run(model, four(model), sink)
    assert not sink.errors
    assert engine.counts["out_of_memory"] == memory.ooms >= 1
    assert all(float((sink.pictures[job] - alone[job]).abs().max()) <= SAME for job in alone)
    del engine
    gc.collect()
    assert memory.allocated <= at_rest, "nothing is kept of what did not fit"


def test_out_of_memory_of_one_call_spares_the_others(fake_cuda: FakeCuda) -> None:
    """A convolution that fails once, whatever it had to do."""
    model = placed("SD 1.x")
    expected = draw(model, four(model)).pictures
    fake_cuda.fail("aten.convolution", lambda: torch.OutOfMemoryError("CUDA out of memory"), after=3)
    sink = KeepingSink()
    engine = run(model, four(model), sink)
    assert engine.counts["out_of_memory"] == 1
    assert not sink.errors
    assert all(float((sink.pictures[job] - expected[job]).abs().max()) <= SAME for job in expected)


def test_a_lost_device_ends_the_engine_and_blames_no_drawing(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's process ends by threading.excepthook; another takes its place, and the drawings are drawn there."""
    ended = threading.Event()
    errors: list[Any] = []

    def end(arguments: threading.ExceptHookArgs) -> None:
        errors.append(arguments.exc_value)
        ended.set()

    monkeypatch.setattr(threading, "excepthook", end)
    model = placed("SD 1.x")

    class LosingSink(KeepingSink):
        def progress(self, drawing: Drawing, done: int, of: int) -> None:
            fake_cuda.lose()

    sink = LosingSink()
    Engine(sink).submit(model, *four(model))
    assert ended.wait(60)
    (error,) = errors
    assert isinstance(error, torch.AcceleratorError)
    assert error.error_code == 710  # type: ignore[attr-defined]
    assert not sink.errors
    assert not sink.pictures


def test_a_device_lost_while_a_model_is_loaded_is_not_the_folders_fault(fake_cuda: FakeCuda, shipped: Catalog) -> None:
    plan = next(iter(shipped.plans.values()))
    fake_cuda.lose()
    with pytest.raises(torch.AcceleratorError):
        load(plan, CUDA)


def test_the_embedded_model_takes_the_bytes_that_its_files_promise(fake_cuda: FakeCuda, shipped: Catalog) -> None:
    plan = next(iter(shipped.plans.values()))
    promised = weight_bytes(plan, CUDA)
    model = load(plan, CUDA)
    assert model.weight_bytes() == pytest.approx(promised, rel=0.01)
    assert torch.cuda.memory_allocated() == pytest.approx(promised, rel=0.05), "512 bytes at least for each tensor"
    check(model)
    assert model.shares, model.reason
    assert not fake_cuda.unknown


class _MovedByItsLibrary(torch.nn.Linear):
    """As bitsandbytes' int8 models: they are on their device, and their own ``to`` refuses."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("`.to` is not supported for 8-bit models")


def test_a_part_that_only_its_library_moves_is_left_to_the_pipeline(fake_cuda: FakeCuda) -> None:
    asked: list[torch.device] = []
    pipeline = SimpleNamespace(components={"unet": _MovedByItsLibrary(2, 2)}, to=asked.append)
    tuning.place(pipeline, ModelPlan("a", "", "other"), CUDA)
    assert asked == [CUDA]
