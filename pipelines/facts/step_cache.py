"""Which steps a run leaves out: by its scheduler, its number of steps, and a strength from 0 to 1.

Knows names and numbers; knows neither tensors nor runs. The front asks whether a strength means anything for a request,
the engine which steps to compute. What stands here was measured on the embedded model (docs/engine-bench.md): with a
rule, pictures are nearer to the converged one than those of as many plain steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

DEFAULT = 0.5  # what ``step_cache: true`` stands for
FIRST, LAST = 3, 1  # steps that are always computed, at either end
MAX_IN_A_ROW = 3  # left out, by a tolerance
MIN_STEPS, MIN_PLANNED = 12, 20

_PLANNED = frozenset(
    {"DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"}
)
_CHECKED = frozenset({"FlowMatchEulerDiscreteScheduler", "FlowDPMSolver", "FlowUniPC"})
_NEVER = {
    "LCMScheduler": "lcm draws few steps, and each counts",
    "FlowMatchHeunDiscreteScheduler": "flow_heun asks the model twice at each time",
}
_TOLERANCE, _TOLERANCE_SHORT = 0.08, 0.16  # of a strength of 1
_SHARE, _MAX_SHARE = 0.4, 0.75  # of the steps, at strengths of 0.5 and 1


@dataclass(frozen=True)
class Plan:
    """These steps are left out, whatever the numbers are."""

    left_out: frozenset[int]


@dataclass(frozen=True)
class Check:
    """A step is left out where what the last computed step was told to be, and was, lets expect an error below this."""

    tolerance: float


def strength(asked: T) -> T | float:
    """What ``step_cache`` in a request or a preset stands for: true and false stand for numbers."""
    return DEFAULT * asked if isinstance(asked, bool) else asked


def problem(class_name: str) -> str | None:
    """Why a scheduler of this class can leave out no step, whatever their number; None where it can."""
    return _NEVER.get(class_name)


def obstacle(class_name: str, config: Mapping[str, Any], steps: int) -> str | None:
    """Why a run of so many steps (those really made) computes all of them, whatever the strength; None where it can
    leave some out."""
    if class_name in _NEVER:
        return _NEVER[class_name]
    if class_name not in _PLANNED | _CHECKED:
        return f"nothing was measured with {class_name}, or it draws fresh noise in each step"
    if str(config.get("algorithm_type", "")).startswith("sde") or config.get("stochastic_sampling"):
        return f"{class_name} draws fresh noise in each step, as it is configured"
    return f"{steps} steps are fewer than {MIN_STEPS}" if steps < MIN_STEPS else None


def rule(class_name: str, config: Mapping[str, Any], steps: int, strength: float) -> Plan | Check | None:
    """How a run of so many steps (those really made) leaves some out, by its scheduler; None where it computes all.

    ``strength`` is 0 to 1; 0.5 leaves out two fifths, or what an error of 0.04 allows, 1 three quarters, or 0.08.
    """
    if not strength or obstacle(class_name, config, steps) is not None:
        return None
    if class_name in _PLANNED and steps >= MIN_PLANNED:
        return Plan(planned(steps, share(strength)))
    return Check(strength * (_TOLERANCE if steps >= MIN_PLANNED else _TOLERANCE_SHORT))


def share(strength: float) -> float:
    """Of the steps, that a plan leaves out."""
    if strength <= DEFAULT:
        return _SHARE * strength / DEFAULT
    return _SHARE + (_MAX_SHARE - _SHARE) * (strength - DEFAULT) / (1 - DEFAULT)


def planned(steps: int, share: float) -> frozenset[int]:
    """The steps to leave out: ``share`` of them, evenly after the first fifth, which settles what the picture is, and
    before the last; no more than three of four of those between."""
    first = max(FIRST, round(steps / 5))
    room = max(0, steps - first - LAST)
    leave = min(round(steps * share), room - (room + 3) // 4)
    if leave <= 0:
        return frozenset()
    compute = room - leave
    computed = {first + round((n + 1) * (room + 1) / (compute + 1)) - 1 for n in range(compute)}
    return frozenset(step for step in range(first, steps - LAST) if step not in computed)
