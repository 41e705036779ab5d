"""Spacings: where on the way from noise to picture the steps lie.

Knows which steps of a finer schedule a dense start takes, and for which schedulers; knows neither torch nor how a
scheduler makes its schedule. The front decides with it, the worker draws by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

Spacing = Literal["default", "dense_start"]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
DENSE_START: Final = "dense_start"

MIN_DENSE_STEPS = 8  # with fewer there is nothing to choose; distilled models draw with fewer
_SHARE = 0.6  # of the finer schedule's steps that are drawn
_MIN_FIRST = 3  # of its first steps that are all drawn; of a long one, a fifth

# Schedulers whose step reads the noise levels before and after it from a list. The others count on even steps, take
# each step twice, or draw fresh noise in each: then nothing converges that a step could be nearer to.
_TAKES_LEVELS = frozenset(
    {
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowDPMSolver",
        "FlowUniPC",
    }
)


def takes_dense_start(class_name: str, config: Mapping[str, Any]) -> bool:
    """Whether a scheduler of this class and configuration can draw with a dense start."""
    draws_noise = str(config.get("algorithm_type", "")).startswith("sde") or config.get("stochastic_sampling")
    return class_name in _TAKES_LEVELS and not draws_noise


def steps_drawn(steps: int, strength: float | None) -> int:
    """How many of a run's steps are drawn; ``strength`` is an edit's, which draws the last of them."""
    return steps if strength is None else max(1, int(steps * strength))


def dense_start(steps: int, drawn: int) -> tuple[int, tuple[int, ...]]:
    """How many steps the finer schedule has, and which of them stand for a schedule's ``steps``, in their order.

    ``drawn`` is how many are really drawn: an edit passes by the others, which lie before. Of the finer schedule's part
    that is drawn, a dense start takes a fifth at its beginning (3 at least), its last, and evenly of those between.
    """
    finer, part = round(steps / _SHARE), round(drawn / _SHARE)
    before, passed = finer - part, steps - drawn
    chosen = [n * before // passed for n in range(passed)]
    return finer, (*chosen, *(before + n for n in _dense(drawn, part)))


def _dense(steps: int, finer: int) -> list[int]:
    first = min(max(_MIN_FIRST, finer // 5), steps - 1)
    start, end, between = first - 1, finer - 1, steps - first - 1
    spread = [round(start + (end - start) * n / (between + 1)) for n in range(1, between + 1)]
    return [*range(first), *spread, end]
