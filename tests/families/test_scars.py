"""Faults that the matrix found, each by name, so that it does not come back."""

from __future__ import annotations

import threading
from typing import Any

import diffusers
import pytest
import torch

from pipelines.engine.engine import Engine
from pipelines.engine.ragged import Ragged
from pipelines.engine.sink import KeepingSink
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from pipelines.spec import Task
from tests.families import tiny
from tests.families.drive import check, draw, drawing, half_mask, picture, run


def test_qwen_image_of_one_area_and_two_aspects_keeps_its_shapes() -> None:
    # Rows of one length; only the first of a batch's img_shapes is read, so joining them drew the second askew.
    model = tiny.build("Qwen-Image")
    check(model)
    drawings = [drawing(model, 1, "a cat", size=(64, 32)), drawing(model, 2, "a cat", size=(32, 64))]
    alone = [draw(model, [one]).pictures[one.job_id] for one in drawings]
    together = draw(model, drawings).pictures
    for one, drawn in zip(drawings, alone, strict=True):
        assert float((together[one.job_id] - drawn).abs().max()) <= 5e-6


def test_z_image_with_as_many_rows_as_channels() -> None:
    # 16 tensors of 16 channels: a list of rows, or 16 tensors with rows inside? Only the trace can tell.
    model = tiny.build("Z-Image")
    check(model)
    drawings = [drawing(model, number, "a cat", steps=2, n=4) for number in (10, 20, 30, 40)]
    alone = [draw(model, [one]).pictures[one.job_id] for one in drawings]
    together = draw(model, drawings)
    assert together.forwards == 2
    for one, drawn in zip(drawings, alone, strict=True):
        assert float((together.pictures[one.job_id] - drawn).abs().max()) <= 5e-6


def test_schedulers_that_count_in_integers_and_in_floats_share_steps() -> None:
    model = tiny.build("SD 1.x")
    check(model)
    drawings = [drawing(model, 1, "a cat", scheduler="ddim"), drawing(model, 2, "a cat", scheduler="euler")]
    assert draw(model, drawings).forwards == 4


@pytest.mark.parametrize("name", ["FLUX.1 Kontext", "FLUX.2 Klein", "PixArt-Sigma", "Sana", "Qwen-Image-Edit"])
def test_the_picture_has_the_size_asked_for(name: str) -> None:
    # Kontext drew every picture at a megapixel; PixArt and Sana at a size that they were trained on.
    model = tiny.build(name)
    source = () if name in ("PixArt-Sigma", "Sana") else (picture(80, 48),)
    drawn = draw(model, [drawing(model, 1, "a cat", steps=1, size=(96, 64), sources=source)]).pictures["1"]
    assert drawn.shape == (1, 3, 64, 96)


def test_qwen_edit_repaints_within_a_mask() -> None:
    model = tiny.build("Qwen-Image-Edit")
    drawn = draw(model, [drawing(model, 1, "a cat", sources=(picture(64, 64),), mask=half_mask(64, 64))])
    assert drawn.pictures["1"].shape == (1, 3, 64, 64)


class _Leaves(KeepingSink):
    """A client that leaves after the second step."""

    def progress(self, drawing: Drawing, done: int, of: int) -> None:
        if done == 2:
            raise RuntimeError("gone")


def test_a_step_cache_forgets_a_run_that_did_not_finish() -> None:
    def cached() -> tuple[LoadedModel, Drawing]:
        model = tiny.build("FLUX.1")
        next(t.module for t in model.shared_modules.values() if t.is_denoiser).enable_cache(  # type: ignore[operator]
            diffusers.FirstBlockCacheConfig(threshold=10.0)
        )
        check(model)
        return model, drawing(model, 2, "an old map", steps=4)

    model, other = cached()
    before = draw(model, [other]).pictures["2"]
    ended = threading.Semaphore(0)
    engine = Engine(_Leaves())
    engine.submit(model, drawing(model, 1, "a cat", steps=4), done=ended.release)
    ended.acquire()
    engine.close()
    assert torch.equal(draw(model, [other]).pictures["2"], before)


def test_ragged_prompts_are_padded_and_masked() -> None:
    ragged = Ragged("tokens", "mask")
    short: dict[str, Any] = {"tokens": torch.ones(1, 2, 3), "mask": None, "steps": 4}
    long: dict[str, Any] = {
        "tokens": torch.ones(2, 5, 3),
        "mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "steps": 4,
    }
    assert ragged.folded(short)["tokens"].shape == (1, 0, 3)
    assert ragged.folded(long)["mask"] is None
    first, second = ragged.levelled([short, long])
    assert first["tokens"].shape == (1, 5, 3)
    assert first["mask"].tolist() == [[1, 1, 0, 0, 0]]
    assert torch.equal(second["mask"], long["mask"])
    assert ragged.levelled([short, short]) == [short, short]


@pytest.mark.parametrize("name", sorted(tiny.BUILDERS))
def test_every_scheduler_that_is_offered_draws(name: str) -> None:
    """FlowMatchHeun takes no noise levels of a pipeline's own, LCM's pipelines no other scheduler: both were 500s."""
    model = tiny.build(name)
    width, height = model.plan.native_width, model.plan.native_height
    more: dict[str, Any] = {}
    if Task.TEXT_TO_IMAGE not in model.family.tasks:
        more["sources"] = (picture(width, height),)
    if model.family.tasks == {Task.INPAINTING}:
        more["mask"] = half_mask(width, height)
    names = model.family.scheduler_names
    drawings = [drawing(model, n, "a cat", steps=3, scheduler=name, **more) for n, name in enumerate(names)]
    assert len(draw(model, drawings).pictures) == len(names)


@pytest.mark.parametrize(("steps", "strength"), [(25, 0.5), (40, 0.8), (50, 1.0)])
def test_lcm_edits_in_as_many_steps_as_a_request_may_ask_for(steps: int, strength: float) -> None:
    """server/api/specs.py refuses one more, for which the pipeline has no timesteps."""
    model = tiny.build("LCM")
    side = model.plan.native_width
    fields: dict[str, Any] = {"strength": strength, "sources": (picture(side, side),)}
    assert draw(model, [drawing(model, 1, "a cat", steps=steps, **fields)]).pictures
    sink = KeepingSink()
    run(model, [drawing(model, 2, "a cat", steps=steps + 1, **fields)], sink)
    assert sink.errors
