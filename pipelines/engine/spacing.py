"""A dense start: a run's own scheduler made to draw some steps of a finer schedule of its own.

Knows how diffusers' schedulers keep their schedules; which steps those are is told by ``pipelines.facts.spacing``. The
pipeline asks for as many steps as ever, and finds them.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any

import numpy as np
import torch

from pipelines.facts import spacing


def densify(scheduler: Any, drawn: int) -> None:
    """Have a scheduler that takes a dense start begin densely; ``drawn`` of its steps are really drawn, the last."""
    if drawn < spacing.MIN_DENSE_STEPS or not spacing.takes_dense_start(type(scheduler).__name__, scheduler.config):
        return
    if scheduler.config.get("timestep_spacing") == "leading":  # of many steps it begins far from the noise
        scheduler.register_to_config(timestep_spacing="trailing")
    set_timesteps = scheduler.set_timesteps
    signature = inspect.signature(set_timesteps)
    stride = _stride(scheduler) if not hasattr(scheduler, "sigmas") else None

    @functools.wraps(set_timesteps)  # pipelines ask its signature what it takes
    def set_dense(*args: Any, **kwargs: Any) -> None:
        told = signature.bind(*args, **kwargs).arguments
        levels = told.get("sigmas")
        steps = told.get("num_inference_steps") or (0 if levels is None else len(levels))
        if told.get("timesteps") is not None or steps < drawn:
            set_timesteps(*args, **kwargs)
            return
        finer, chosen = spacing.dense_start(steps, drawn)
        if levels is not None:
            told["sigmas"] = _refined(levels, finer)
        if told.get("num_inference_steps") is not None:
            told["num_inference_steps"] = finer
        set_timesteps(**told)
        scheduler.timesteps = scheduler.timesteps[list(chosen)]
        if stride is not None:
            scheduler.num_inference_steps = stride.over(scheduler.timesteps)
            return
        scheduler.sigmas = torch.cat([scheduler.sigmas[list(chosen)], scheduler.sigmas[-1:]])
        scheduler.num_inference_steps = steps

    scheduler.set_timesteps = set_dense


def _refined(levels: Any, finer: int) -> Any:
    """The levels that a pipeline brings, as it would bring ``finer`` of them: over the same way, to the same end."""
    way = [*levels, max(0.0, 2 * levels[-1] - levels[-2])]
    return np.interp(np.arange(finer) * (len(levels) / finer), np.arange(len(way)), way)


class _Stride(int):
    """The count of steps that DDIM divides its training steps by, to know how far the next one is: as far as it is."""

    gaps: dict[int, int]
    at: int

    def over(self, timesteps: torch.Tensor) -> _Stride:
        """Learn where the steps lie."""
        places = [*timesteps.tolist(), -1]
        self.gaps = {here: here - there for here, there in itertools.pairwise(places)}
        return self

    def __rfloordiv__(self, other: int) -> int:
        return self.gaps[self.at]


def _stride(scheduler: Any) -> _Stride:
    stride, step = _Stride(), scheduler.step

    @functools.wraps(step)
    def stepped(output: torch.Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        stride.at = int(timestep)
        return step(output, timestep, *args, **kwargs)

    scheduler.step = stepped
    return stride
