"""Comparisons of tiny models with random weights: what is drawn, and what a fault looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from pipelines.comparison import compare
from pipelines.engine import adapters
from pipelines.errors import BadPicture
from pipelines.facts.comparison import Company, Comparison, Found
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.plan import AdapterFile
from pipelines.spec import Adapter, ImageSpec
from tests.families import tiny
from tests.loras import write_lora

STEPS = 14


class Parts:
    """Keeps what it is told: the parts, how many steps each has, and how many were done."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.done = 0

    def begun(self, name: str, steps: int) -> None:
        assert self.done == sum(self.steps.values()), "the part before is done"
        self.steps[name] = steps

    def stepped(self) -> None:
        self.done += 1


def checked(name: str) -> LoadedModel:
    model = tiny.build(name)
    selfcheck.check(model)
    assert model.shares
    return model


def run(model: LoadedModel, parts: Parts | None = None, steps: int = STEPS, **more: Any) -> Found:
    side = model.plan.native_width
    spec = ImageSpec("tiny", "", side, side, side, side, steps, 4.0, scheduler=more.pop("scheduler", None))
    specs = tuple(msgspec.structs.replace(spec, prompt=prompt) for prompt in ("a cat", "a dog"))
    comparison = Comparison(model.plan, specs, **more)
    return compare(model, comparison, parts or Parts(), device="CPU", dtype="float32")


@pytest.mark.parametrize("name", ["SD 1.x", "SD3"])
def test_what_is_drawn_together_is_what_is_drawn_alone(name: str) -> None:
    parts = Parts()
    found = run(checked(name), parts)
    assert [each.company for each in found.shared] == [Company.PLAIN]
    assert found.within(0.1)
    assert found.shared[0].rows > found.rows_alone
    assert parts.steps["each alone"] == 2 * STEPS
    assert parts.done == sum(parts.steps.values())
    assert found.left_out is None


def test_runs_that_take_something_from_their_company_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel might that looks at its batch as a whole, and that the check at load did not meet."""
    model = checked("SD 1.x")
    (denoiser,) = (each for each in model.shared_modules.values() if each.name == "unet")
    real = denoiser.function

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        (output,) = real(*args, **kwargs)
        return (output + 0.05 * (output.shape[0] > 2),)

    monkeypatch.setattr(denoiser, "function", spoilt)
    found = run(model)
    assert not found.within(1.0)
    assert found.shared[0].difference.p99 > 1


def test_steps_that_are_left_out_are_held_against_as_many_plain_ones() -> None:
    parts = Parts()
    found = run(checked("SD 1.x"), parts, steps=20, scheduler="ddim", step_cache=0.5)
    assert [each.company for each in found.shared] == [Company.PLAIN, Company.CACHED]
    assert found.within(0.1)
    left_out = found.left_out
    assert left_out is not None
    assert left_out.computed == (12, 12), "two fifths are left out"
    assert parts.steps["as many plain steps"] == 24
    assert parts.steps["converged"] == 2 * left_out.converged_steps == 160
    assert left_out.cached.max > 0
    assert len(left_out.cached_near.psnr) == len(left_out.plain_near.ssim) == 2


def test_a_sampler_that_leaves_out_no_step_is_no_comparison() -> None:
    found = run(checked("SD 1.x"), steps=20, scheduler="euler_a", step_cache=0.5)
    assert found.left_out is None


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_adapters_are_drawn_alone_and_beside_others_without(tmp_path: Path) -> None:
    file = write_lora(tiny.build("SD 1.x")._base, tmp_path, seed=3)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"torn")
    model = tiny.build("SD 1.x")
    model.adapters = adapters.load(model._base, [AdapterFile("ink", str(file)), AdapterFile("broken", str(broken))])
    selfcheck.check(model)
    found = run(model, adapters=(Adapter("broken", 1.0), Adapter("ink", 0.7)))
    assert [each.company for each in found.shared] == [Company.PLAIN, Company.WITHOUT, Company.ADAPTED]
    assert found.within(0.1)
    assert found.adapters == (Adapter("ink", 0.7),)
    assert found.broken.keys() == {"broken"}
    assert found.mixed


def test_a_model_that_only_edits_is_given_something_to_edit() -> None:
    found = run(checked("Qwen-Image-Edit"), steps=2)
    assert found.within(0.1)


def test_a_black_picture_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    model = checked("SD 1.x")
    (decoder,) = (each for each in model.shared_modules.values() if each.name == "vae")
    real = decoder.function
    monkeypatch.setattr(
        decoder, "function", lambda *args, **kwargs: tuple(torch.full_like(each, -1) for each in real(*args, **kwargs))
    )
    with pytest.raises(BadPicture, match="black all over"):
        run(model, steps=2)
