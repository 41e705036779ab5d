"""Multistep solvers for models that follow a flow, on the noise levels of diffusers' own Euler for them.

Knows a solver's arithmetic alone. Levels, shifts, edits' beginnings and noise are FlowMatchEulerDiscreteScheduler's, so
that every pipeline which draws with it draws with these, unchanged, from the same noise over the same levels; those of
diffusers (UniPCMultistepScheduler, DPMSolverMultistepScheduler) have levels of their own, round timesteps to integers,
and take no levels or shifts that a pipeline brings. Coefficients are numbers of the host: a step waits for no device.

Sources: DPM-Solver++(2M) (Lu et al. 2022), UniPC with B2 of order 2 (Zhao et al. 2023), both predicting the picture.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput

# Logarithms of a level's signal and noise: diffusers cuts the first level, which has no signal, by as much.
_MIN_SHARE = 1e-6


class FlowDPMSolver(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """DPM-Solver++(2M): a step goes on along the line through the last two predicted pictures."""

    corrects = False

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """The sample at the next level. Nothing is drawn with ``generator``, which some pipelines hand over."""
        if self.step_index is None:
            self._init_step_index(timestep)
            self._begin()
        at, to = self._levels[self._step_index], self._levels[self._step_index + 1]
        self._step_index += 1
        if at > 0:
            made = self._advance(model_output.to(torch.float32), sample.to(torch.float32), at, to)
            sample = made.to(model_output.dtype)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=sample) if return_dict else (sample,)

    def _begin(self) -> None:
        self._levels: list[float] = self.sigmas.tolist()
        self._clean: list[torch.Tensor] = []  # predicted pictures of the last two steps, the newest last
        self._from: list[float] = []  # and their levels
        self._last: tuple[torch.Tensor, float] | None = None  # what the step before began with; its slope's share

    def _advance(self, output: torch.Tensor, sample: torch.Tensor, at: float, to: float) -> torch.Tensor:
        clean = sample - at * output
        if self.corrects and self._last is not None:
            sample = self._corrected(clean, at)
        self._clean, self._from = [*self._clean[-1:], clean], [*self._from[-1:], at]
        slope = self._slope(to)
        self._last = (sample, slope)
        keep, gain = _weights(at, to)
        made = keep * sample + gain * clean
        return made + (0.5 * gain * slope) * (clean - self._clean[0]) if slope else made

    def _slope(self, to: float) -> float:
        """How much further it is to the next level than from the one before; 0 for a step of order 1."""
        if len(self._from) < 2 or to <= 0 or self._step_index == len(self.timesteps):
            return 0.0
        before, at = self._from
        return (_lambda(to) - _lambda(at)) / (_lambda(at) - _lambda(before))

    def _corrected(self, clean: torch.Tensor, at: float) -> torch.Tensor:
        """The sample at this level, once more from the one before, now that the picture predicted here is known."""
        assert self._last is not None
        (sample, slope), before, start = self._last, self._clean[-1], self._from[-1]
        keep, gain = _weights(start, at)
        far, near = 0.0, 0.5
        if slope:
            h = _lambda(at) - _lambda(start)
            grown = math.expm1(-h)
            first = (grown / -h - 1) / grown
            second = ((grown / -h - 1) / -h - 0.5) * 2 / grown
            far = (first - second) / (1 + 1 / slope)
            near = first - far
        made = keep * sample + gain * before + (gain * near) * (clean - before)
        return made + (gain * far * slope) * (before - self._clean[0]) if slope else made


class FlowUniPC(FlowDPMSolver):
    """UniPC: DPM-Solver++(2M), and each step corrected by what the next one predicts."""

    corrects = True


def _weights(at: float, to: float) -> tuple[float, float]:
    """What a step of order 1 keeps of the sample, and takes of the predicted picture."""
    keep = to / at
    return keep, (1 - to) - keep * (1 - at)


def _lambda(level: float) -> float:
    level = min(max(level, _MIN_SHARE), 1 - _MIN_SHARE)
    return math.log((1 - level) / level)
