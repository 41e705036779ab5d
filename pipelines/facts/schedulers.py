"""Scheduler names that a client may send, and the class behind each: of diffusers, or of pipelines.engine.flow_solvers.

Knows names and kinds; the front checks a request against this table, the worker builds from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# For models that predict noise or velocity over a discrete schedule (SD 1/2, SDXL, PixArt, LCM).
DISCRETE: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}

# For models that follow a flow (SD3, FLUX, Qwen-Image, Z-Image, Sana, Lumina, AuraFlow).
FLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow_unipc": ("FlowUniPC", {}),
    "flow_dpmpp_2m": ("FlowDPMSolver", {}),
    "flow_heun": ("FlowMatchHeunDiscreteScheduler", {}),
}

# How the noise levels may lie, in the place of how the scheduler's configuration has them. Of the three flags at most
# one may be set, and a model's own configuration may have set another.
_FLAGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
SIGMAS: dict[str, dict[str, Any]] = {
    **{flag.split("_")[1]: {each: each == flag for each in _FLAGS} for flag in _FLAGS},
    "trailing": {"timestep_spacing": "trailing"},
}
_CURVES = frozenset({"karras", "exponential", "beta"})
_TAKES = {
    "EulerDiscreteScheduler": _CURVES | {"trailing"},
    "DPMSolverMultistepScheduler": _CURVES | {"trailing"},
    "UniPCMultistepScheduler": _CURVES | {"trailing"},
    "EulerAncestralDiscreteScheduler": frozenset({"trailing"}),
    "DDIMScheduler": frozenset({"trailing"}),
    "FlowMatchEulerDiscreteScheduler": _CURVES,
}


# LCMScheduler picks its steps out of so many, diffusers' default, and refuses more.
MAX_LCM_STEPS = 50


def names(*, flow: bool) -> tuple[str, ...]:
    """The names that fit every model of that kind, in the order to show them.

    Most flow pipelines bring noise levels of their own, or shifted by the picture's size: Heun's takes neither.
    """
    return tuple(name for name in FLOW if name != "flow_heun") if flow else tuple(DISCRETE)


def takes_sigmas(class_name: str, config: Mapping[str, Any], name: str) -> bool:
    """Can a scheduler of this class and configuration draw with its noise levels so, a name of ``SIGMAS``?"""
    if name == "beta" and config.get("rescale_betas_zero_snr"):
        return False  # diffusers spreads it over the levels themselves, and the first of these is 4096
    return name in _TAKES.get(class_name, ())


def lookup(name: str) -> tuple[str, dict[str, Any]]:
    """The class name of a scheduler and what it is configured with beside the model's own config.

    Raises KeyError for an unknown name.
    """
    return DISCRETE[name] if name in DISCRETE else FLOW[name]
