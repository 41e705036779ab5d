"""What classes of models remember beside their weights, on the device: tables of positions, by picture size.

Knows functools' caches on classes; knows no class by name. Such a cache is its class's, not a module's: it outlives the
model, and holds its module and its tensors (diffusers' QwenEmbedRope: 4 MiB, and 3.5 MiB for each of 128 sizes).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def forget(module: torch.nn.Module) -> None:
    """Clear the caches of the classes of a module and of its parts; others of these classes make theirs anew."""
    for cls in {cls for part in module.modules() for cls in type(part).__mro__}:
        if issubclass(cls, torch.nn.Module) and not cls.__module__.startswith("torch."):
            for cache in _caches(cls):
                cache.cache_clear()


def _caches(cls: type) -> Iterator[Any]:
    for member in vars(cls).values():
        if hasattr(member, "cache_clear"):
            yield member
        # diffusers wraps the cached function in one of its own, which shows nothing of it.
        for cell in getattr(member, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # one that is empty still
                if hasattr(cell.cell_contents, "cache_clear"):
                    yield cell.cell_contents
