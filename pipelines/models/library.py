"""The classes of components, as their libraries know them, and their models without memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import torch
import transformers
from diffusers.pipelines import stable_diffusion


def class_of(library: str, class_name: str) -> Any:
    """The class of a component; None where its library knows none by that name."""
    libraries = {"diffusers": diffusers, "transformers": transformers, "stable_diffusion": stable_diffusion}
    return getattr(libraries.get(library), class_name, None)


def is_a(value: Any, base: type) -> bool:
    """Is it a class of that kind?"""
    return isinstance(value, type) and issubclass(value, base)


def empty_model(loaded: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """One of diffusers' models without memory, and its configuration."""
    config: dict[str, Any] = loaded.load_config(str(folder), local_files_only=True)
    with contextlib.suppress(RuntimeError, NotImplementedError, TypeError, ValueError), torch.device("meta"):
        return loaded.from_config(config), config  # no table of positions is computed: seconds of Stable Diffusion 3
    with accelerate.init_empty_weights():
        return loaded.from_config(config), config
