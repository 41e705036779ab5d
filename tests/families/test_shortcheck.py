"""The check at load of a large model on a slow device finds what the whole check finds, in six forwards at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import msgspec
import pytest
import torch

from pipelines.engine.shared import Stage
from pipelines.errors import LoadRefused
from pipelines.models import selfcheck, shortcheck
from pipelines.models.loader import LoadedModel
from pipelines.models.shortcheck import ShortCheck
from pipelines.models.trial import Trial
from pipelines.models.verdict import Verdict
from tests.families import tiny
from tests.families.drive import draw, drawing
from tests.families.test_adapters import adapted, write
from tests.families.test_faults import PLANTS

WITH_CONTROLS = {"SD 1.x, ControlNets", "SDXL, ControlNets"}  # one more step alone, and one beside a plain one
TWICE_A_STEP = {"Qwen-Image", "Qwen-Image-Edit", "Qwen-Image-Edit-Plus", "Lumina 2", "Chroma"}


def of(native: Trial) -> ShortCheck:
    """The same picture, taken for a quarter of a native one: tiny models have no smaller."""
    same = Trial(native.model, native.width, native.height)
    return ShortCheck(same, 4 * native.width * native.height)


def check(model: LoadedModel, known: Verdict | None = None, *, slow: bool = True) -> Verdict:
    with (
        mock.patch.object(ShortCheck, "of", of),
        mock.patch.object(shortcheck, "_SLOW_S", 0.0 if slow else 1e9),
    ):
        return selfcheck.check(model, known)


def without_costs(verdict: Verdict) -> Verdict:
    """What two checks of equal models find alike."""
    modules = {name: msgspec.structs.replace(found, costs=None) for name, found in verdict.modules.items()}
    return msgspec.structs.replace(verdict, modules=modules)


def counted(model: LoadedModel) -> Counter[Stage]:
    """What is called from now on, but for text encoders: each run's prompts are encoded anew."""
    counts: Counter[Stage] = Counter()

    def count(real: Callable[..., Any], stage: Stage) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            counts[stage] += 1
            return real(*args, **kwargs)

        return function

    for shared in model.shared_modules.values():
        if shared.stage is not Stage.ENCODE:
            shared.function = count(shared.function, shared.stage)
    return counts


@pytest.mark.parametrize("name", tiny.BUILDERS)
def test_it_finds_what_the_whole_check_finds(name: str) -> None:
    """SD 1.5 took fifteen forwards and five decodes of its native picture: 162 CPU seconds, and at last its life."""
    whole = selfcheck.check(tiny.build(name))
    model = tiny.build(name)
    counts = counted(model)
    short = check(model)
    assert counts[Stage.DENOISE] <= (7 if name in TWICE_A_STEP | WITH_CONTROLS else 5)
    assert counts[Stage.DECODE] <= 3
    assert short.small
    assert (short.shares, short.reason, short.mixed) == (whole.shares, whole.reason, whole.mixed) == (True, "", True)
    for shared in model.shared_modules.values():
        found, expected = short.modules[shared.name], whole.modules[shared.name]
        assert found.pixels == expected.pixels
        if shared.is_denoiser:
            assert (found.parts, found.output_parts) == (expected.parts, expected.output_parts)
            assert found.costs is not None
            sizes = 1 if shared.stage is Stage.CONTROL else 2  # of a ControlNet, one is enough for a guess
            assert len(found.costs.samples) >= sizes


@pytest.mark.parametrize("name", ["SD 1.x", "FLUX.1", "Z-Image"])
def test_what_it_found_is_enough_to_share_steps(name: str) -> None:
    model = tiny.build(name)
    check(model)
    drawings = [drawing(model, number, "a cat", steps=2) for number in (1, 2)]
    alone = [draw(tiny.build(name), [one]) for one in drawings]
    together = draw(model, drawings)
    assert together.forwards == alone[0].forwards
    for one, drawn in zip(drawings, alone, strict=True):
        assert (together.pictures[one.job_id] - drawn.pictures[one.job_id]).abs().max() < 1e-3


def test_a_scheduler_that_takes_a_step_more_makes_it_six(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("SD 1.x")
    model._base.scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    counts = counted(model)
    assert check(model).shares
    assert counts == {Stage.DENOISE: 6, Stage.DECODE: 3}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_model_with_dependent_rows_is_found_out(plant: Callable[[], LoadedModel]) -> None:
    verdict = check(plant())
    assert not verdict.shares
    assert verdict.reason


def test_a_decoder_with_dependent_rows_is_found_out() -> None:
    model = tiny.build("SD 1.x")
    decoder = next(shared.module for shared in model.shared_modules.values() if shared.stage is Stage.DECODE)
    decoder.decoder.conv_in.register_forward_hook(  # type: ignore[union-attr]
        lambda module, inputs, output: output / output.norm()
    )
    verdict = check(model)
    assert not verdict.shares
    assert "between two decodes" in verdict.reason


def test_a_forward_that_fails_for_two_runs_alone_is_found_out() -> None:
    model = tiny.build("SD 1.x")
    denoiser = next(shared for shared in model.shared_modules.values() if shared.stage is Stage.DENOISE)
    real, called = denoiser.function, [0]

    def function(*args: Any, **kwargs: Any) -> Any:
        called[0] += 1
        if called[0] == 5:  # of A two, of A twice one, of B one
            raise ValueError("only one run at a time")
        return real(*args, **kwargs)

    denoiser.function = function
    verdict = check(model)
    assert (verdict.shares, verdict.reason) == (
        False,
        "together fails: a shared step had to be tried again alone",
    )


@pytest.mark.parametrize("slow", [True, False])
def test_prompts_without_an_effect_and_weights_without_numbers_are_refused(slow: bool) -> None:
    deaf = tiny.build("SD 1.x")
    for parameter in deaf.components["text_encoder"].parameters():
        parameter.data.zero_()
    with pytest.raises(LoadRefused, match=r"^prompts have no effect"):
        check(deaf, slow=slow)
    numberless = tiny.build("SD 1.x")
    for parameter in numberless.components["unet"].parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(Exception, match="NaN"):
        check(numberless, slow=slow)


def test_a_device_that_is_not_slow_gets_the_whole_check() -> None:
    model, other = tiny.build("SD 1.x"), tiny.build("SD 1.x")
    counts = counted(model)
    verdict = check(model, slow=False)
    assert counts[Stage.DENOISE] > 10
    assert without_costs(verdict) == without_costs(selfcheck.check(other))


def test_only_large_models_have_a_smaller_picture() -> None:
    model = tiny.build("SD 1.x")
    assert ShortCheck.of(Trial(model, 128, 128)) is None
    assert ShortCheck.of(Trial(model, 256, 256)) is None
    sizes = [(512, 512), (1024, 1024), (1344, 768), (1328, 1328)]
    smaller = [ShortCheck.of(Trial(model, *size)) for size in sizes]
    assert [(short.trial.width, short.trial.height) for short in smaller if short] == [
        (256, 256),
        (256, 256),
        (320, 192),
        (256, 256),
    ]
    next(shared for shared in model.shared_modules.values() if shared.is_denoiser).compiled = True
    assert ShortCheck.of(Trial(model, 512, 512)) is None, "each size would be compiled for"


def test_a_busy_machine_is_no_slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a forward takes of the clock, while others have the processor, says nothing of the device."""
    model = tiny.build("SD 1.x")
    clock = iter(range(10**6))
    monkeypatch.setattr("pipelines.models.shortcheck.time.perf_counter", lambda: 10.0 * next(clock))
    short = of(Trial(model, model.plan.native_width, model.plan.native_height))
    assert not short.finds_slow()
    monkeypatch.setattr("pipelines.models.shortcheck.time.process_time", lambda: 10.0 * next(clock))
    short = of(Trial(model, model.plan.native_width, model.plan.native_height))
    assert short.finds_slow()


def test_what_a_smaller_picture_showed_is_shown_again_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = check(tiny.build("SD 1.x"))
    model = tiny.build("SD 1.x")
    counts = counted(model)
    assert check(model, verdict) == verdict
    assert counts == {Stage.DENOISE: 1, Stage.DECODE: 1}


def test_adapters_are_mixed_where_they_may_be(tmp_path: Path) -> None:
    file = write("SD 1.x", tmp_path / "a", seed=1)
    model = adapted("SD 1.x", {"a": file})
    counts = counted(model)
    assert check(model).mixed
    assert counts == {Stage.DENOISE: 7, Stage.DECODE: 3}
    with mock.patch.object(shortcheck, "are_mixed", return_value=False):
        assert not check(adapted("SD 1.x", {"a": file})).mixed
    assert all(torch.isfinite(p).all() for p in model.components["unet"].parameters())
