"""The check's verdict: kept, given back, and believed only of the same model that still draws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import torch

from pipelines.engine.call import Call
from pipelines.engine.cost import StepCost
from pipelines.engine.shared import SharedModule, Stage
from pipelines.errors import LoadRefused
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.models.verdict import Verdict
from tests.families import tiny
from tests.families.drive import draw, drawing


def count_rows(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> list[int]:
    """The rows of every call from now on of the modules of that stage, of models made from now on."""
    rows: list[int] = []
    made = SharedModule.__post_init__

    def counting(shared: SharedModule) -> None:
        made(shared)
        real = shared.function

        def function(*args: Any, **kwargs: Any) -> Any:
            rows.append(len((*args, *kwargs.values())[0]))
            return real(*args, **kwargs)

        if shared.stage is stage:
            shared.function = function

    monkeypatch.setattr(SharedModule, "__post_init__", counting)
    monkeypatch.setattr(selfcheck, "_measure", lambda shared, call: None)
    return rows


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every forward of a denoiser."""
    return count_rows(monkeypatch, Stage.DENOISE)


def found(model: LoadedModel) -> dict[str, Any]:
    return {
        shared.name: (shared.parts, shared.output_parts, shared.pixels, shared.cost)
        for shared in model.shared_modules.values()
    }


def test_the_cost_of_steps_that_another_process_found_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that had started while its CPU was busy was bound to one row a step, and so would each after it be."""
    slow, quick = StepCost(0.0, 3.0, 64), StepCost(0.1, 0.001, 64)
    costs = [slow, quick]

    def measure(shared: SharedModule, call: Call) -> None:
        shared.cost = costs.pop(0)

    monkeypatch.setattr(selfcheck, "_measure", measure)
    verdict = selfcheck.check(tiny.build("SD 1.x"))
    again = tiny.build("SD 1.x")
    selfcheck.check(again, verdict)
    assert next(shared for shared in again.shared_modules.values() if shared.is_denoiser).cost == slow
    again = tiny.build("SD 1.x")
    selfcheck.check(again, verdict, costs_hold=False)
    assert next(shared for shared in again.shared_modules.values() if shared.is_denoiser).cost == quick


def test_a_model_that_comes_back_is_checked_with_one_forward(forwards: list[int]) -> None:
    """Each load from disk drew nine pictures' steps and measured anew: 27 s of SDXL on an H200."""
    first = tiny.build("SD 1.x")
    verdict = selfcheck.check(first)
    assert len(forwards) > 5
    kept = msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict)
    assert kept == verdict
    again = tiny.build("SD 1.x")
    forwards.clear()
    assert selfcheck.check(again, kept) == verdict
    assert forwards == [2], "one guided step"
    assert found(again) == found(first)
    drawings = [drawing(again, number, "a cat", steps=2) for number in (1, 2)]
    assert draw(again, drawings).forwards == 2, "and it shares its steps"


def test_a_verdict_of_other_weights_is_not_believed(forwards: list[int]) -> None:
    verdict = selfcheck.check(tiny.build("SD 1.x"))
    forwards.clear()
    selfcheck.check(tiny.build("SDXL"), verdict)
    assert len(forwards) > 5


def test_a_model_that_draws_no_numbers_is_checked_anew(forwards: list[int]) -> None:
    verdict = selfcheck.check(tiny.build("SD 1.x"))
    broken = tiny.build("SD 1.x")
    for parameter in next(s.module for s in broken.shared_modules.values() if s.is_denoiser).parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(Exception, match="NaN"):
        selfcheck.check(broken, verdict)


def test_a_model_that_hears_no_prompt_is_refused_also_when_it_comes_back(forwards: list[int]) -> None:
    """Its tokenizer may have lost its vocabulary since: only a model that was not known was asked."""
    verdict = selfcheck.check(tiny.build("SD 1.x"))
    deaf = tiny.build("SD 1.x")
    for parameter in deaf.components["text_encoder"].parameters():
        parameter.data.zero_()
    with pytest.raises(LoadRefused, match=r"^prompts have no effect"):
        selfcheck.check(deaf, verdict)


def test_every_forward_and_decode_of_a_check_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_measure", lambda shared, call: None)
    model, told, ran = tiny.build("SD 1.x"), [0], [0]
    functions = {shared: shared.function for shared in model.shared_modules.values()}

    def counting(real: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            assert told == ran, "the last was told before the next began"
            ran[0] += 1
            return real(*args, **kwargs)

        return function

    def alive() -> None:
        told[0] += 1

    for shared, real in functions.items():
        shared.function = counting(real)
    before = {shared: shared.function for shared in functions}
    verdict = selfcheck.check(model, None, alive)
    assert told == ran
    assert told[0] > 10
    assert {shared: shared.function for shared in functions} == before
    told[0] = ran[0] = 0
    selfcheck.check(model, verdict, alive)
    assert told == ran == [2], "a step and a decode"


def test_an_unshared_model_stays_so(forwards: list[int]) -> None:
    verdict = selfcheck.check(tiny.build("SD 1.x"))
    verdict = msgspec.structs.replace(verdict, shares=False, reason="looks at its batch as a whole")
    model = tiny.build("SD 1.x")
    selfcheck.check(model, verdict)
    assert (model.shares, model.reason) == (False, "looks at its batch as a whole")


def test_the_checks_own_decodes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures were decoded at once before anything knew how large they are: 11 GiB of Qwen-Image, at load."""
    decoded = count_rows(monkeypatch, Stage.DECODE)
    monkeypatch.setattr("pipelines.engine.shared._DECODE_PIXELS", 32 * 32)
    selfcheck.check(tiny.build("SD 1.x"))
    assert set(decoded) == {1}


class Hungry(torch.nn.Module):
    """Takes a fixed number of bytes a row, on a device that there is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tried: list[int] = []

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(sample))
        return sample


@pytest.mark.parametrize("cached", [0, 1000])
def test_costs_are_not_measured_in_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch, cached: int) -> None:
    """Batches grew until the device was full, on purpose, while other models drew: their steps found no room."""
    module = Hungry()
    monkeypatch.setattr(selfcheck, "is_on_cuda", lambda shared: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2000 - cached, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5000 + cached)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5000 + 300 * module.tried[-1])
    shared = SharedModule("unet", module, module, Stage.DENOISE)
    call: Any = SimpleNamespace(arguments={"sample": torch.zeros(1, 4, 8, 8)}, rows=1, area=256)
    selfcheck._measure(shared, cast(Call, call))
    assert max(module.tried) == 4, "1,200 of the 2,000 bytes; eight rows would take 2,400"
    assert shared.learned_rows == {256: 4}
    assert shared.cost is not None
