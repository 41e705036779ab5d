"""Scheduler names that a client may send, and the class behind each: of diffusers, or of pipelines.engine.flow_solvers.

Knows names and kinds; the front checks a request against this table, the worker builds from it.
"""

from __future__ import annotations

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


# LCMScheduler picks its steps out of so many, diffusers' default, and refuses more.
MAX_LCM_STEPS = 50


def names(*, flow: bool) -> tuple[str, ...]:
    """The names that fit every model of that kind, in the order to show them.

    Most flow pipelines bring noise levels of their own, or shifted by the picture's size: Heun's takes neither.
    """
    return tuple(name for name in FLOW if name != "flow_heun") if flow else tuple(DISCRETE)


def lookup(name: str) -> tuple[str, dict[str, Any]]:
    """The class name of a scheduler and what it is configured with beside the model's own config.

    Raises KeyError for an unknown name.
    """
    return DISCRETE[name] if name in DISCRETE else FLOW[name]
