"""Samplers of order 2 for models that follow a flow, and dense starts, as real pipelines ask for them.

That each family draws with them, alone and in company of Euler, is the matrix's to say (test_matrix.py).
"""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import msgspec
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pipelines.engine.sink import KeepingSink
from pipelines.errors import Cancelled
from pipelines.facts.spacing import dense_start
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from tests.families import dits, tiny
from tests.families.drive import check, draw, drawing, half_mask, picture, run
from tests.families.matrix import LONG, OTHER, SHORT

FLOW = [name for name in dits.ROWS if name != "PixArt-Sigma"]


def by_default(one: Drawing) -> Drawing:
    return msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, spacing="default"))


class Levels:
    """The timesteps and levels that runs have set; a run ends where it has them, before any step."""

    def __init__(self) -> None:
        self.set: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def of(self, model: LoadedModel, *drawings: Drawing) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        self.set = []
        set_timesteps = FlowMatchEulerDiscreteScheduler.set_timesteps

        @functools.wraps(set_timesteps)
        def stopping(scheduler: Any, *args: Any, **kwargs: Any) -> None:
            set_timesteps(scheduler, *args, **kwargs)
            self.set.append((type(scheduler).__name__, scheduler.timesteps, scheduler.sigmas))
            raise Cancelled("this far")

        with mock.patch.object(FlowMatchEulerDiscreteScheduler, "set_timesteps", stopping):
            run(model, drawings, KeepingSink())
        return self.set


@pytest.mark.parametrize("name", FLOW)
def test_a_pipeline_sets_the_levels_of_its_own_euler(name: str) -> None:
    model = tiny.build(name)
    side = model.plan.native_width
    edits = model.family.name.startswith("qwen-image-edit")
    sources: dict[str, Any] = {"sources": (picture(side, side),)} if edits else {}
    names = ("flow_euler", "flow_unipc", "flow_dpmpp_2m")
    drawings = [drawing(model, n, SHORT, steps=5, scheduler=each, **sources) for n, each in enumerate(names)]
    (_, timesteps, levels), *others = Levels().of(model, *drawings)
    assert [each for each, _, _ in others] == ["FlowUniPC", "FlowDPMSolver"]
    for _, other_timesteps, other_levels in others:
        assert torch.equal(other_timesteps, timesteps)
        assert torch.equal(other_levels, levels)


@pytest.mark.parametrize("name", ["SD 1.x", "FLUX.1"])
def test_dense_starts_share_steps_with_default_ones(name: str) -> None:
    model = tiny.build(name)
    check(model)
    side = model.plan.native_width
    source: dict[str, Any] = {"sources": (picture(side, side),), "strength": 0.8}
    flow = name != "SD 1.x"
    drawings = [
        drawing(model, 10, SHORT, steps=9),
        drawing(model, 20, LONG, steps=8, spacing="dense_start"),
        drawing(model, 30, OTHER, steps=9, spacing="dense_start", scheduler="flow_unipc" if flow else "dpmpp_2m"),
        drawing(model, 40, OTHER, steps=10, spacing="dense_start", **source),
        drawing(model, 50, SHORT, steps=10, spacing="dense_start", mask=half_mask(side, side), **source),
    ]
    together = draw(model, drawings)
    assert together.fallbacks == 0
    for one in drawings:
        mine = draw(model, [one])
        drawn = mine.pictures[one.job_id]
        assert float((drawn - together.pictures[one.job_id]).abs().max()) <= 1e-5
        assert mine.forwards == (8 if one.spec.sources else one.spec.steps)
    (plain,) = draw(model, [by_default(drawings[1])]).pictures.values()
    assert float((plain - together.pictures["20"]).abs().max()) > 1e-3


def test_an_edits_dense_start_begins_with_the_noise_of_its_strength() -> None:
    """Of a schedule that is dense at its beginning the last steps lie where an edit should have kept its source."""
    model = tiny.build("FLUX.1")
    side = model.plan.native_width
    edit = drawing(model, 1, SHORT, steps=20, strength=0.6, sources=(picture(side, side),), spacing="dense_start")
    plain = by_default(edit)
    begun = []
    step = FlowMatchEulerDiscreteScheduler.step

    @functools.wraps(step)
    def told(scheduler: Any, output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        begun.append(float(timestep))
        return step(scheduler, output, timestep, *args, **kwargs)

    with mock.patch.object(FlowMatchEulerDiscreteScheduler, "step", told):
        for one in (plain, edit):
            draw(model, [one])
    ours, theirs = begun[12:], begun[:12]
    assert len(ours) == 12
    assert abs(ours[0] - theirs[0]) < theirs[0] - theirs[1]
    assert ours[0] - ours[1] < (theirs[0] - theirs[1]) * 0.8
    assert dense_start(20, 12)[0] == 33
