"""Samplers and schedule types as AUTOMATIC1111's clients name them → our solvers and noise levels.

Knows names; knows no model beside which solvers it takes. Every sampler of A1111 stands for the nearest that there is,
and which that is depends on what a model predicts: noise, or a flow.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Sampler:
    """A sampler by its name in A1111, and our solvers that stand for it: the first that a model takes."""

    name: str
    solvers: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    def solver(self, offered: Collection[str]) -> str | None:
        """Ours for a model that offers these; None: none of them."""
        return next((solver for solver in self.solvers if solver in offered), None)


@dataclass(frozen=True)
class Schedule:
    """A schedule type, and our noise levels (``pipelines.facts.schedulers.SIGMAS``); None: there are none such."""

    name: str
    label: str
    sigmas: str | None
    aliases: tuple[str, ...] = ()


_ANCESTRAL = ("euler_a", "flow_euler")
_EULER = ("euler", "flow_euler")
_HEUN = ("euler", "flow_heun", "flow_euler")
_MULTISTEP = ("dpmpp_2m", "flow_dpmpp_2m", "flow_euler")

# Those whose solver is their own stand first of each kind.
SAMPLERS: Final = (
    Sampler("Euler a", _ANCESTRAL, ("k_euler_a", "k_euler_ancestral", "euler_ancestral")),
    Sampler("Euler", _EULER, ("k_euler", "flow_euler")),
    Sampler("DPM++ 2M", _MULTISTEP, ("k_dpmpp_2m", "dpm++2mv2", "flow_dpmpp_2m")),
    Sampler("UniPC", ("unipc", "flow_unipc", "flow_euler"), ("uni_pc", "uni_pc_bh2", "flow_unipc")),
    Sampler("DDIM", ("ddim", "flow_euler"), ("ddim_trailing",)),
    Sampler("LCM", ("lcm", "flow_euler"), ("k_lcm", "tcd")),
    Sampler("Heun", _HEUN, ("k_heun", "flow_heun", "heunpp2")),
    Sampler("LMS", _EULER, ("k_lms",)),
    Sampler("DPM2", _EULER, ("k_dpm_2", "dpm_2")),
    Sampler("DPM2 a", _ANCESTRAL, ("k_dpm_2_a", "k_dpm_2_ancestral", "dpm_2_ancestral")),
    Sampler("DPM++ 2S a", _ANCESTRAL, ("k_dpmpp_2s_a", "dpmpp_2s_ancestral")),
    Sampler("DPM++ SDE", _MULTISTEP, ("k_dpmpp_sde", "dpmpp_sde_gpu")),
    Sampler("DPM++ 2M SDE", _MULTISTEP, ("k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu")),
    Sampler("DPM++ 2M SDE Heun", _MULTISTEP, ("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu")),
    Sampler("DPM++ 3M SDE", _MULTISTEP, ("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu")),
    Sampler("DPM fast", _EULER, ("k_dpm_fast",)),
    Sampler("DPM adaptive", _EULER, ("k_dpm_ad", "k_dpm_adaptive")),
    Sampler("Restart", _ANCESTRAL),
    Sampler("DDIM CFG++", ("ddim", "flow_euler"), ("ddim_cfgpp",)),
    Sampler("PLMS", ("ddim", "flow_euler"), ("ipndm", "ipndm_v")),
)
SCHEDULES: Final = (
    Schedule("automatic", "Automatic", "default", ("auto", "default", "none", "")),
    Schedule("karras", "Karras", "karras"),
    Schedule("exponential", "Exponential", "exponential"),
    Schedule("beta", "Beta", "beta"),
    Schedule("sgm_uniform", "SGM Uniform", "trailing", ("sgm uniform", "trailing")),
    Schedule("uniform", "Uniform", "default", ("discrete",)),
    Schedule("normal", "Normal", "default"),
    Schedule("simple", "Simple", "default"),
    Schedule("polyexponential", "Polyexponential", None),
    Schedule("kl_optimal", "KL Optimal", None),
    Schedule("align_your_steps", "Align Your Steps", None, ("ays",)),
    Schedule("align_your_steps_GITS", "Align Your Steps GITS", None, ("gits",)),
    Schedule("align_your_steps_11", "Align Your Steps 11", None),
    Schedule("align_your_steps_32", "Align Your Steps 32", None),
    Schedule("ddim", "DDIM", None, ("ddim uniform",)),
    Schedule("turbo", "Turbo", None),
)
AUTOMATIC: Final = SCHEDULES[0]

# What a model draws with where nobody says.
_LABELS: Final = {
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS",
    "LCMScheduler": "LCM",
    "HeunDiscreteScheduler": "Heun",
    "LMSDiscreteScheduler": "LMS",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "FlowMatchHeunDiscreteScheduler": "Heun",
    "FlowDPMSolver": "DPM++ 2M",
    "FlowUniPC": "UniPC",
}


def find(name: str) -> tuple[Sampler | None, Schedule | None]:
    """The sampler that a name means, in any case and with other programs' marks; and the schedule type that old clients
    put behind it: "DPM++ 2M Karras". None for what is not named, or not known."""
    for sampler in SAMPLERS:
        if _key(name) in map(_key, (sampler.name, *sampler.aliases)):
            return sampler, None
    for schedule in SCHEDULES:
        for ending in (schedule.label, *schedule.aliases):
            rest = name.strip()[: -len(ending)] if ending else name
            if ending and _key(name).endswith(_key(ending)) and rest.endswith((" ", "_")):
                sampler_found, _ = find(rest)
                return sampler_found, schedule if sampler_found is not None else None
    return None, None


def find_schedule(name: str) -> Schedule | None:
    """The schedule type of that name, label or alias, in any case."""
    for schedule in SCHEDULES:
        if _key(name) in map(_key, (schedule.name, schedule.label, *schedule.aliases)):
            return schedule
    return None


def label(class_name: str | None) -> str:
    """What A1111 calls the sampler of one of diffusers' classes, or ours; Automatic where it has no name there."""
    return _LABELS.get(class_name or "", "Automatic")


def _key(text: str) -> str:
    key = text.strip().lower().removeprefix("k_").replace("dpmpp", "dpm++")
    return key.replace("_", "").replace("-", "").replace(" ", "")
