"""Models of real size with random weights, made on the device: no file is read.

Time, memory and rounding do not depend on what a picture shows. Knows how weights are made and placed; what the models
are is in published.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.doctor import published
from pipelines.facts.families import FamilyTable
from pipelines.models import tuning
from pipelines.models.device import choose_dtype
from pipelines.models.loader import LoadedModel
from pipelines.plan import ModelPlan


@dataclass(frozen=True)
class RealSize:
    """A model that can be made without files."""

    family: str
    side: int  # pixels, of its native picture
    build: Callable[[published.Make], Any]


def make(name: str, device: torch.device) -> LoadedModel:
    """The model, placed as loading places one. Always the same weights on one device."""
    size = MODELS[name]
    plan = ModelPlan(name, "", size.family, native_width=size.side, native_height=size.side)
    return place(plan, pipeline(name, device, choose_dtype(plan.dtype, device)), device)


def pipeline(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The diffusers pipeline alone, as a bare script has it."""
    torch.manual_seed(0)
    with _made_in(device, dtype):
        made = MODELS[name].build(_random)
    made.set_progress_bar_config(disable=True)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False).to(dtype)
    return made


def place(plan: ModelPlan, made: Any, device: torch.device) -> LoadedModel:
    """The pipeline as the engine takes it."""
    tuning.place(made, plan, device)
    return LoadedModel(plan, made, FamilyTable().by_name[plan.family], device)


def _random(kind: Callable[..., Any], *config: Any, **options: Any) -> Any:
    return kind(*config, **options)


@contextmanager
def _made_in(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


MODELS = {
    "sdxl": RealSize("stable-diffusion-xl", 1024, published.sdxl),
    "klein-4b": RealSize("flux2", 1024, published.klein_4b),
    "sd15": RealSize("stable-diffusion", 512, published.sd15),
}
