"""Noise that is the same on every device and in every precision: drawn in float32, and cast.

Knows torch's functions that draw normal numbers; knows neither pipelines nor seeds. What such a function makes of a
seed in half precision differs between versions of torch, so a picture would change with them, and with the precision.
Numbers that a pipeline makes a tensor of are float32 as well, whatever torch's default is: loading another model sets
it for the whole process.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from pipelines.engine import thread_state

HALF = frozenset({torch.bfloat16, torch.float16})
_T = TypeVar("_T")


class Float32Noise(TorchFunctionMode):
    """While it is entered, the calling thread's normal numbers in half precision are those of float32, rounded."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        draw = _DRAWS.get(func)
        if draw is None:
            return func(*args, **(kwargs or {}))
        return draw(*args, **(kwargs or {}))


def _randn(*args: Any, **kwargs: Any) -> Any:
    # A dtype that is not named is float32: loading another model sets torch's default for the whole process.
    return _cast(torch.randn, kwargs.pop("dtype", None) or torch.float32, *args, **kwargs)


def _randn_like(like: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return _cast(torch.randn_like, kwargs.pop("dtype", None) or like.dtype, like, *args, **kwargs)


def _normal_(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if tensor.dtype not in HALF:
        return tensor.normal_(*args, **kwargs)
    return tensor.copy_(torch.empty_like(tensor, dtype=torch.float32).normal_(*args, **kwargs))


def _tensor(data: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    made = torch.tensor(data, dtype=dtype, **kwargs)
    by_default = dtype is None and made.dtype is torch.get_default_dtype() and isinstance(data, float | list | tuple)
    return torch.tensor(data, dtype=torch.float32, **kwargs) if by_default and made.dtype in HALF else made


def _cast(draw: Callable[..., torch.Tensor], dtype: torch.dtype, *args: Any, **kwargs: Any) -> torch.Tensor:
    if dtype not in HALF or kwargs.get("out") is not None:
        return draw(*args, dtype=dtype, **kwargs)
    return draw(*args, dtype=torch.float32, **kwargs).to(dtype)


_DRAWS: dict[Any, Callable[..., Any]] = {
    torch.randn: _randn,
    torch.randn_like: _randn_like,
    torch.Tensor.normal_: _normal_,
    torch.tensor: _tensor,
}


def in_float32(components: Iterable[object]) -> contextlib.AbstractContextManager[object]:
    """Float32Noise for pipeline code on these components; nothing where none of them computes in half precision.

    Nor while another model loads in it: torch's default type is the process's, and LCM's guidance scale was rounded.
    """
    modules = (component for component in components if isinstance(component, torch.nn.Module))
    half = torch.get_default_dtype() in HALF or any(_dtype(module) in HALF for module in modules)
    return Float32Noise() if half else contextlib.nullcontext()


def drawing(function: Callable[..., _T]) -> Callable[..., _T]:
    """The same function, under Float32Noise."""

    @functools.wraps(function)
    def draws(*args: Any, **kwargs: Any) -> _T:
        with Float32Noise():
            return function(*args, **kwargs)

    return draws


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Nothing is drawn meanwhile: a module's forward is spared a look at each of its thousands of operators."""
    modes = thread_state.modes()
    if not modes or type(modes[-1]) is not Float32Noise:
        yield
        return
    thread_state.leave()
    try:
        yield
    finally:
        thread_state.enter(modes[-1])


def _dtype(module: torch.nn.Module) -> torch.dtype | None:
    parameters = (parameter.dtype for parameter in module.parameters())
    return next((dtype for dtype in parameters if dtype.is_floating_point), None)
