"""An upscaler by itself, as residency keeps one: for pictures that no model here has drawn.

Knows a network and where it is; knows neither pipelines nor budgets.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.facts import upscaler as facts
from pipelines.models import upscaler
from pipelines.models.upscaler import Upscaler
from pipelines.plan import ModelPlan

WORKING_BYTES = 1 << 30  # of a device: what a batch of tiles takes beside the weights; fewer and smaller ones take less


class UpscalerAlone:
    """The upscalers of a plan that has nothing else. ``load`` raises LoadRefused."""

    def __init__(self, plan: ModelPlan, upscalers: dict[str, Upscaler]) -> None:
        self.plan = plan
        self.upscalers = upscalers

    def weight_bytes(self) -> int:
        """Bytes of all its weights."""
        modules = (each.module for each in self.upscalers.values())
        return sum(tensor.nbytes for module in modules for tensor in module.parameters())

    def host_bytes(self) -> int:
        """The same in host memory."""
        return self.weight_bytes()

    def move(self, device: torch.device) -> None:
        """Bring the weights to the device or to host memory. Nothing may be enlarged meanwhile."""
        for each in self.upscalers.values():
            each.module.to(device)

    @property
    def has_host_copy(self) -> bool:
        return False

    def forget_host_copy(self) -> None:
        """It has none."""

    def forget_tables(self) -> None:
        """It keeps nothing beside its weights."""


def load(plan: ModelPlan, device: torch.device) -> UpscalerAlone:
    """The upscalers of a plan, on ``device``. Raises LoadRefused."""
    return UpscalerAlone(plan, {file.name: upscaler.load(file, device, plan.dtype) for file in plan.upscalers})


def weight_bytes(plan: ModelPlan, device: torch.device) -> int:
    """Bytes that its weights will take on ``device``, told from the headers of its files. Raises LoadRefused."""
    itemsize = upscaler.dtype_on(plan.dtype, device).itemsize
    return sum(facts.weight_bytes(Path(file.path), itemsize) for file in plan.upscalers)
