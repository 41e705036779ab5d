"""A run by itself: its turns, and its end, with no engine at all."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines.engine import run as run_module
from pipelines.engine.adapters import Adapters
from pipelines.engine.call import Call
from pipelines.engine.model import Model
from pipelines.engine.run import Run
from pipelines.engine.shared import find_shared_modules
from pipelines.engine.sink import KeepingSink
from pipelines.errors import Cancelled, DrawError
from pipelines.facts.families import FamilyTable
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import ImageSpec

_SPEC = ImageSpec("m", "a cat", 8, 8, 8, 8, 2, 1.0)
_DRAWING = Drawing("one", ModelPlan("m", "/m", "other"), _SPEC, (5,))


class Adder(torch.nn.Module):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return sample + 1


class Pipeline:
    """As much of a pipeline as a run needs: it calls its denoiser twice."""

    def __init__(self) -> None:
        self.unet: Any = Adder()
        self.scheduler = SimpleNamespace(step=lambda: None)

    @property
    def components(self) -> dict[str, Any]:
        return {"unet": self.unet, "scheduler": self.scheduler}

    def __call__(self, prompt: str) -> SimpleNamespace:
        sample = torch.zeros(1, 1)
        for _ in range(2):
            sample = self.unet(sample)
        return SimpleNamespace(images=sample)


class OneModel:
    def __init__(self) -> None:
        self.family = next(iter(FamilyTable().by_name.values()))
        self.shares = True
        self.adapters = Adapters()
        self.made = Pipeline()
        self.shared_modules = find_shared_modules(self.made.components)

    def pipeline(self, task: object) -> Pipeline:
        return self.made


@pytest.fixture
def sink() -> KeepingSink:
    return KeepingSink()


@pytest.fixture
def run(sink: KeepingSink) -> Run:
    return Run(_DRAWING, cast(Model, OneModel()), sink, counts=Counter())


def test_a_run_stops_at_each_shared_call_and_goes_on_with_its_output(run: Run, sink: KeepingSink) -> None:
    first = run.go()
    assert isinstance(first, Call)
    first.output = torch.full((1, 1), 10.0)
    second = run.go()
    assert isinstance(second, Call)
    assert second.args[0].item() == 10
    second.output = torch.full((1, 1), 20.0)
    assert run.go() is None
    assert sink.pictures["one"].item() == 20
    assert not run.history.last, "it keeps no tensors of its calls"


def test_an_error_that_is_left_is_raised_where_the_run_waits(run: Run, sink: KeepingSink) -> None:
    call = run.go()
    assert isinstance(call, Call)
    call.error = ValueError("no such luck")
    assert run.go() is None
    assert type(sink.errors["one"]) is DrawError
    assert str(sink.errors["one"]) == "ValueError: no such luck"


@pytest.mark.parametrize("turns", [0, 1])
def test_a_run_that_is_cancelled_ends_at_its_next_call(run: Run, sink: KeepingSink, turns: int) -> None:
    for _ in range(turns):
        call = run.go()
        assert isinstance(call, Call)
        call.output = torch.zeros(1, 1)
    run.cancelled = True
    assert run.go() is None
    assert isinstance(sink.errors["one"], Cancelled)


def test_a_lost_device_is_not_the_runs_failure(run: Run, sink: KeepingSink) -> None:
    call = run.go()
    assert isinstance(call, Call)
    call.error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    with pytest.raises(torch.AcceleratorError):
        run.go()
    assert not sink.errors


def test_an_encoder_that_found_no_room_is_tried_once_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch kept for other batches was in its way, and the run was refused."""
    freed: list[bool] = []
    monkeypatch.setattr(run_module, "free_cached", lambda pool: freed.append(True))

    def work() -> str:
        if not freed:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "encoded"

    assert run.alone(work) == "encoded"
    freed.clear()

    def never() -> str:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run.alone(never)
    assert freed == [True]
