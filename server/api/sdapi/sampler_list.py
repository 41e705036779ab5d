"""Samplers and schedulers as AUTOMATIC1111's clients list them.

Knows how our schedulers are called there. Only what differs here is listed; a request may name any other.
"""

from __future__ import annotations

from typing import Any, Final

from server.catalog.catalog import Model

# Our name: theirs, and its other names.
_SAMPLERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "ddim": ("DDIM", ("ddim",)),
    "euler": ("Euler", ("k_euler",)),
    "euler_a": ("Euler a", ("k_euler_a", "k_euler_ancestral")),
    "dpmpp_2m": ("DPM++ 2M", ("k_dpmpp_2m",)),
    "unipc": ("UniPC", ("unipc",)),
    "lcm": ("LCM", ("k_lcm",)),
    "flow_euler": ("Euler", ("k_euler",)),
    "flow_heun": ("Heun", ("k_heun",)),
    "flow_dpmpp_2m": ("DPM++ 2M", ("k_dpmpp_2m",)),
    "flow_unipc": ("UniPC", ("unipc",)),
}


def samplers(model: Model) -> list[dict[str, Any]]:
    """The items of ``GET /sdapi/v1/samplers``: what this model samples with, in the order to show."""
    named = (_SAMPLERS.get(name, (name, ())) for name in model.scheduler_names)
    return [{"name": name, "aliases": list(aliases), "options": {}} for name, aliases in named]


def schedulers() -> list[dict[str, Any]]:
    """The items of ``GET /sdapi/v1/schedulers``: how noise levels are spaced, which is the model's to say."""
    return [
        {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1.0, "need_inner_model": False}
    ]
