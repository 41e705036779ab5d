"""What torch remembers per thread: gradients, inference mode, autocast, function modes.

Knows torch's switches; knows nothing of runs. All runs of an engine take turns on one thread, so each takes its
own switches with it when it waits, and finds them again when it goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.overrides import TorchFunctionMode

_CASTING = ("cuda", "cpu")  # devices whose autocast a pipeline may switch on


class ThreadState(NamedTuple):
    """The switches of the calling thread."""

    grad: bool
    inference: bool
    casts: tuple[torch.dtype | None, ...]  # by _CASTING; None: off
    modes: tuple[TorchFunctionMode, ...] = ()  # the innermost last

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype that a forward casts to, None when autocast is off."""
        return next((dtype for dtype in self.casts if dtype is not None), None)

    def restore(self) -> None:
        """Set the calling thread's gradients and autocast. The rest is left to ``changed_to``."""
        torch._C._set_grad_enabled(self.grad)
        for kind, dtype in zip(_CASTING, self.casts, strict=True):
            torch.set_autocast_enabled(kind, dtype is not None)
            if dtype is not None:
                torch.set_autocast_dtype(kind, dtype)

    def changed_to(self, other: ThreadState, meanwhile: Callable[[], object]) -> None:
        """Do ``meanwhile`` under the other's switches, then set these again."""
        if self == other:
            meanwhile()
            return
        _change_modes(self.modes, other.modes)
        # Set both ways by its own guard, which remembers what it found: it need not nest.
        guard = torch.inference_mode(other.inference)
        guard.__enter__()
        other.restore()
        try:
            meanwhile()
        finally:
            guard.__exit__(None, None, None)
            self.restore()
            _change_modes(other.modes, self.modes)


def current() -> ThreadState:
    """The calling thread's switches."""
    return ThreadState(
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        tuple([torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in _CASTING]),
        modes(),
    )


def modes() -> tuple[TorchFunctionMode, ...]:
    """The function modes that the calling thread has entered, the innermost last."""
    return tuple([torch._C._get_function_stack_at(at) for at in range(torch._C._len_torch_function_stack())])


def enter(mode: TorchFunctionMode) -> None:
    torch._C._push_on_torch_function_stack(mode)


def leave() -> None:
    """Leave the innermost function mode."""
    torch._C._pop_torch_function_stack()


def _change_modes(now: tuple[TorchFunctionMode, ...], then: tuple[TorchFunctionMode, ...]) -> None:
    """Leave the modes that only ``now`` has, and enter those that only ``then`` has."""
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] is pair[1], zip(now, then, strict=False)))
    for _ in now[common:]:
        leave()
    for mode in then[common:]:
        enter(mode)
