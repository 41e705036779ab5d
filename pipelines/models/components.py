"""Who wants to know is told as diffusers has each component of a pipeline: of a large model that takes minutes.

Knows where diffusers makes components; knows neither models nor messages. It has no interface for this but a progress
bar on the terminal, so the function that makes a component is replaced meanwhile. A release that calls it something
else loads as well, and says nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from diffusers.loaders import single_file
from diffusers.pipelines import pipeline_utils

_MAKERS = ((pipeline_utils, "load_sub_model"), (single_file, "load_single_file_sub_model"))


@contextlib.contextmanager
def told(done: Callable[[], None]) -> Iterator[None]:
    """Have ``done`` called after each component in the block. For one load at a time in a process."""

    def telling(real: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            component = real(*args, **kwargs)
            done()
            return component

        return make

    replaced = [(module, name, getattr(module, name)) for module, name in _MAKERS if hasattr(module, name)]
    for module, name, real in replaced:
        setattr(module, name, telling(real))
    try:
        yield
    finally:
        for module, name, real in replaced:
            setattr(module, name, real)
