"""Noise of real pipelines: in half precision, every number drawn is the one that float32 draws, then cast."""

from __future__ import annotations

from collections import Counter
from typing import Any

import diffusers
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.engine.batch import Batch
from pipelines.engine.call import Call
from pipelines.engine.collate import Merger
from pipelines.engine.run import Run
from pipelines.engine.sink import KeepingSink
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from tests.families import tiny
from tests.families.drive import draw, drawing, half_mask, picture


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps all normal numbers that are drawn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.noise: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.randn, torch.ops.aten.randn_like, torch.ops.aten.normal_):
            self.noise.append(made.clone())
        return made


def drawn(model: LoadedModel, one: Drawing) -> list[torch.Tensor]:
    """The noise of one run, on this thread."""
    sink, counts = KeepingSink(), Counter[str]()
    draws = Draws()
    with torch.no_grad(), draws:
        run = Run(one, model, sink, counts=counts)
        while isinstance(call := run.go(), Call):
            Batch([call], Merger(), counts).run()
    assert not sink.errors, sink.errors
    return draws.noise


def built(name: str, dtype: torch.dtype, own: Any) -> LoadedModel:
    model = tiny.build(name)
    if own is not None:
        model._base.register_modules(scheduler=own)
    model._base.to(dtype)
    return model


def same(name: str, *, own: Any = None, **fields: Any) -> int:
    """How often a run draws noise, in float32 as in bfloat16."""
    exact, half = (
        drawn(model, drawing(model, 1, "a cat", n=2, **fields))
        for model in (built(name, dtype, own) for dtype in (torch.float32, torch.bfloat16))
    )
    assert {tensor.dtype for tensor in half} == {torch.float32}
    assert len(half) == len(exact)
    assert all(torch.equal(a, b) for a, b in zip(half, exact, strict=True))
    return len(exact)


@pytest.mark.parametrize("name", ["SD 1.x", "SDXL", "SD3", "FLUX.1", "FLUX.2 Klein", "Qwen-Image", "Z-Image", "Sana"])
def test_runs_start_from_the_same_noise_in_half_precision(name: str) -> None:
    """On an H200 a seed's picture was not the CPU's: the apple stood elsewhere."""
    assert same(name, steps=2) == 2, "once for each picture"


@pytest.mark.parametrize("scheduler", ["euler_a", "lcm"])
def test_steps_draw_the_same_noise_in_half_precision(scheduler: str) -> None:
    assert same("SD 1.x", steps=4, scheduler=scheduler) >= 2 + 2 * 3


def test_stochastic_solvers_draw_the_same_noise_in_half_precision() -> None:
    own = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    assert same("SD 1.x", own=own, steps=4) >= 2 + 2 * 4


def test_sources_are_encoded_with_the_same_noise_in_half_precision() -> None:
    """A VAE's encoder tells a distribution; the pipeline draws from it."""
    source = picture(32, 32)
    assert same("SD 1.x", steps=4, sources=(source,), strength=0.8) == 4, "the source's, and where its picture starts"
    masked = {"sources": (source,), "mask": half_mask(32, 32), "strength": 0.8}
    assert same("SD 1.x", steps=4, **masked) >= 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lcm_draws_the_same_while_another_model_loads(dtype: torch.dtype) -> None:
    """Loading sets torch's default type for the whole process, and LCM made a tensor of its guidance scale in it."""
    model = built("LCM", dtype, None)
    one = drawing(model, 1, "a cat", steps=2, guidance=7.3)
    before = torch.get_default_dtype()
    alone = draw(model, [one]).pictures["1"]
    torch.set_default_dtype(torch.bfloat16)
    try:
        beside = draw(model, [one]).pictures["1"]
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-6)  # LCM's scheduler still multiplies integers by it
