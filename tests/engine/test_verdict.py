"""The check's verdict: kept, given back, and believed only of the same model that still draws."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipelines.engine.cost import MIN_ROWS
from pipelines.engine.learning import Curve
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
    return rows


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every forward of a denoiser."""
    return count_rows(monkeypatch, Stage.DENOISE)


def found(model: LoadedModel) -> dict[str, Any]:
    return {
        shared.name: (
            shared.parts,
            shared.output_parts,
            shared.pixels,
            shared.apart,
            shared.costs.curve() if shared.is_denoiser else None,
        )
        for shared in model.shared_modules.values()
    }


def test_the_cost_of_steps_that_another_process_found_is_but_a_guess() -> None:
    """A server that had started while its CPU was busy was bound to one row a step, and so would each after it be; and
    measuring anew took 2.5 s of every start."""
    verdict = selfcheck.check(tiny.build("SD 1.x"))
    (name,) = (name for name, found in verdict.modules.items() if found.costs is not None)
    known = verdict.modules[name].costs
    assert known is not None
    dear = Curve(known.area, ((2, 6.0, 0.01), (4, 12.0, 0.01)), known.min_rows)
    model = tiny.build("SD 1.x")
    selfcheck.check(model, verdict.with_costs({name: dear}))
    shared = next(shared for shared in model.shared_modules.values() if shared.name == name)
    assert shared.costs.curve() == dear
    assert shared.most_rows(known.area) == 1
    draw(model, [drawing(model, 1, "a cat", steps=4)])
    assert shared.most_rows(known.area) >= MIN_ROWS, "as its own steps say"


def test_a_verdict_that_was_kept_before_costs_were_learnt_is_believed() -> None:
    verdict = selfcheck.check(tiny.build("SD 1.x"))
    old = msgspec.json.decode(msgspec.json.encode(verdict))
    for module in old["modules"].values():
        module["cost"] = {"fixed_s": 0.1, "row_s": 0.1, "area": 64, "peak_rows": None, "min_rows": 8}
        del module["costs"]
    kept = msgspec.json.decode(msgspec.json.encode(old), type=Verdict)
    assert kept.fits(tiny.build("SD 1.x"))
    assert all(module.costs is None for module in kept.modules.values())


def test_a_verdict_is_new_once_a_cost_has_moved_by_a_tenth() -> None:
    verdict = selfcheck.check(tiny.build("SD 1.x"))
    (name,) = (name for name, found in verdict.modules.items() if found.costs is not None)
    known = verdict.modules[name].costs
    assert known is not None
    as_it_was = verdict.with_costs({name: known})
    assert as_it_was is verdict
    dearer = msgspec.structs.replace(known, samples=tuple((rows, 1.2 * s, error) for rows, s, error in known.samples))
    moved = verdict.with_costs({name: dearer})
    assert moved.modules[name].costs == dearer
    assert moved.modules.keys() == verdict.modules.keys()


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


def test_every_forward_and_decode_of_a_check_is_told() -> None:
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
    assert told == ran == [6], "two prompts of each of two runs, a step and a decode"


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
