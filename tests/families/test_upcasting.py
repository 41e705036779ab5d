"""VAEs that pipelines cast to float32 for a while: a run that ends meanwhile leaves them as they were.

The fault: SDXL's edits cast the VAE that all runs share, and cast it back with no ``finally``. A client that left
between two encodes, or a device without room, left it in float32: every later decode failed until the model was loaded
again. In float16 a decode did the same, and repainting with a ControlNet never cast back at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipelines.engine.engine import Engine
from pipelines.engine.sink import KeepingSink
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from pipelines.spec import Control, Task
from tests.families import tiny
from tests.families.drive import draw, drawing, half_mask, picture

SIDE = 32
SOURCE = picture(SIDE, SIDE)
CONTROLS = (Control("a", SOURCE),)
MASK = half_mask(SIDE, SIDE)
EDITS: dict[str, dict[str, Any]] = {
    "edit": {"sources": (SOURCE,)},
    "repaint": {"sources": (SOURCE,), "mask": MASK},
    "controlled edit": {"sources": (SOURCE,), "controls": CONTROLS},
    "controlled repaint": {"sources": (SOURCE,), "mask": MASK, "controls": CONTROLS},
}
HALVES = [torch.bfloat16, torch.float16]


def half(dtype: torch.dtype) -> LoadedModel:
    """A tiny SDXL in half precision, with ControlNets, whose VAE pipelines are to cast."""
    built = tiny.build("SDXL, ControlNets")
    pipeline = built.pipeline(Task.TEXT_TO_IMAGE)
    assert pipeline.vae.config.force_upcast
    pipeline.to(dtype)
    nets: dict[str, torch.nn.Module] = {name: net.to(dtype) for name, net in built._nets.modules.items()}
    return LoadedModel(built.plan, pipeline, built.family, built.device, nets=nets)


def dtypes(vae: torch.nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in vae.parameters()}


class _Leaves(KeepingSink):
    """A client that leaves after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.leave: Callable[[], None] = lambda: None

    def progress(self, drawing: Drawing, done: int, of: int) -> None:
        if done == self.steps:
            self.leave()


class Model:
    """A model whose VAE tells what it was cast to, and one drawing on it that ends badly."""

    def __init__(self, dtype: torch.dtype, patch: pytest.MonkeyPatch) -> None:
        self.model = half(dtype)
        self.vae: Any = self.model.components["vae"]
        self.seen: list[set[torch.dtype]] = []  # at each of its calls
        self.at_call: Callable[[int], None] = lambda number: None
        for name in ("encode", "decode"):
            patch.setattr(self.vae, name, self._telling(getattr(self.vae, name)))

    def _telling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.seen.append(dtypes(self.vae))
            self.at_call(len(self.seen))
            return method(*args, **kwargs)

        return called

    def ends_badly(self, sink: KeepingSink, one: Drawing, leaves_at_call: int = 0) -> str:
        """The kind of its error."""
        self.seen.clear()
        engine, ended = Engine(sink), threading.Semaphore(0)
        if isinstance(sink, _Leaves):
            sink.leave = lambda: engine.cancel(one.job_id)
        if leaves_at_call:
            self.at_call = lambda number: engine.cancel(one.job_id) if number == leaves_at_call else None
        engine.submit(self.model, one, done=ended.release)
        assert ended.acquire(timeout=120)
        engine.close()
        self.at_call = lambda number: None
        assert torch.float32 in set().union(*self.seen) or not self.seen
        return type(sink.errors[one.job_id]).__name__


@pytest.fixture(params=HALVES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.mark.parametrize("task", EDITS)
def test_between_two_encodes(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, task: str) -> None:
    made = Model(dtype, monkeypatch)
    plain = drawing(made.model, 1, "a cat", steps=2)
    edit = drawing(made.model, 2, "a dog", steps=2, n=3, strength=0.6, **EDITS[task])
    before = draw(made.model, [plain]).pictures["1"]

    assert made.ends_badly(KeepingSink(), edit, leaves_at_call=1) == "Cancelled"
    assert dtypes(made.vae) == {dtype}

    def full(number: int) -> None:
        if number >= 2:  # however often it is tried
            raise torch.OutOfMemoryError("CUDA out of memory")

    made.at_call = full
    assert made.ends_badly(KeepingSink(), edit) == "OutOfMemory"
    assert dtypes(made.vae) == {dtype}
    assert torch.equal(draw(made.model, [plain]).pictures["1"], before)


def test_before_a_decode_and_within_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines heed ``force_upcast`` there for float16 alone."""
    made = Model(torch.float16, monkeypatch)
    plain, other = (drawing(made.model, number, "a cat", steps=2) for number in (1, 2))
    before = draw(made.model, [plain]).pictures["1"]

    assert made.ends_badly(_Leaves(2), other) == "Cancelled"
    assert dtypes(made.vae) == {torch.float16}

    def fails(number: int) -> None:
        raise ValueError("what it was")

    made.at_call = fails
    assert made.ends_badly(KeepingSink(), other) == "DrawError"
    assert dtypes(made.vae) == {torch.float16}
    assert torch.equal(draw(made.model, [plain]).pictures["1"], before)


def test_a_cast_that_found_no_room_is_undone_as_far_as_it_came(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    made = Model(dtype, monkeypatch)
    plain = drawing(made.model, 1, "a cat", steps=2)
    before = draw(made.model, [plain]).pictures["1"]
    inner = made.vae.decoder.conv_out
    real = inner._apply

    def full(*args: Any, **kwargs: Any) -> Any:
        if dtypes(made.vae.encoder) == {torch.float32} and not there_is_room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **kwargs)

    there_is_room = False
    with monkeypatch.context() as patch:
        patch.setattr(inner, "_apply", full)
        edit = drawing(made.model, 2, "a dog", steps=2, **EDITS["edit"])
        assert made.ends_badly(KeepingSink(), edit) == "OutOfMemory"
    assert dtypes(made.vae) == {dtype}
    assert torch.equal(draw(made.model, [plain]).pictures["1"], before)


@pytest.mark.parametrize("task", EDITS)
def test_a_run_that_ends_well(dtype: torch.dtype, task: str) -> None:
    model = half(dtype)
    plain = drawing(model, 1, "a cat", steps=2)
    before = draw(model, [plain]).pictures["1"]
    draw(model, [drawing(model, 2, "a dog", steps=2, n=2, strength=0.6, **EDITS[task])])
    assert dtypes(model.components["vae"]) == {dtype}
    assert torch.equal(draw(model, [plain]).pictures["1"], before)
