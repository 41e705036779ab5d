"""A CUDA device that is not there: real code, real sizes, no GPU.

``with FakeCuda(RTX_4090).on():`` makes ``torch.cuda.is_available()`` true in this process. What goes to "cuda" is on
``cuda:0`` then: a tensor on the wrong device raises, a full device raises, and every wait of the host for the device is
counted with the line that caused it. Tensors of the host are as they always are. Darkroom and the libraries above torch
are not changed.

This module knows how the device is switched on and off; machine.py has what it is made of.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from tests.device.calls import Calls, apply
from tests.device.cards import RTX_4090, Card
from tests.device.dispatch import Dispatch
from tests.device.machine import Machine
from tests.device.pinned import PinnedMemory
from tests.device.torch_cuda import TorchCuda

# c10::DeviceType, and how many there are
_CUDA, _META, _DEVICE_TYPES = 1, 14, 21


class FakeCuda(Machine):
    """``count`` cards alike in this process, from ``on`` on."""

    def __init__(
        self,
        card: Card = RTX_4090,
        *,
        count: int = 1,
        allocator: str = "exact",
        values: int | None = None,
        pinned: PinnedMemory | None = None,
    ) -> None:
        """``allocator`` is "exact", "default" or "expandable". ``values``: the largest tensor, in elements, whose
        numbers are kept and computed, on the CPU; None for all. Of larger ones there are sizes alone, which take no
        memory."""
        super().__init__(card, count=count, allocator=allocator, values=values, pinned=pinned or PinnedMemory())

    @property
    def memory(self) -> Any:
        """The allocator of the first card."""
        return self.devices[0].memory

    @contextlib.contextmanager
    def on(self) -> Iterator[FakeCuda]:
        """Have the cards, in this thread and in all that start meanwhile."""
        _register_guard()
        with contextlib.ExitStack() as stack:
            for owner, name, value in (*TorchCuda(self).replacements(), *self._replacements()):
                stack.callback(_put_back(owner, name))
                setattr(owner, name, value)
            stack.enter_context(self._modes())
            yield self

    @contextlib.contextmanager
    def _modes(self) -> Iterator[None]:
        """torch's modes are each thread's own."""
        lifts = torch._C._only_lift_cpu_tensors()
        # torch.tensor(…, device="cuda") is made on the host then, and goes to the device by an operator.
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with Dispatch(self), Calls(self):
                yield
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)

    def _replacements(self) -> Iterator[tuple[Any, str, Any]]:
        run = threading.Thread.run

        def run_with_modes(thread: threading.Thread) -> None:
            with self._modes():
                run(thread)

        yield threading.Thread, "run", run_with_modes
        yield torch.nn.Module, "_apply", apply
        # A FakeTensor's own asks for number after number, a device's tensor is copied once.
        yield FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist()
        # Libraries ask for it to know whether they are traced, and then leave out what depends on numbers.
        yield torch._subclasses, "FakeTensor", type("NoFakeTensor", (), {})


def _put_back(owner: Any, name: str) -> Any:
    """What restores an attribute as it is now."""
    missing = object()
    before = vars(owner).get(name, missing)
    return lambda: delattr(owner, name) if before is missing else setattr(owner, name, before)


def why_not() -> str | None:
    """Why there can be no fake device in this process; None if there can."""
    if sys.platform != "linux":
        return "the fake CUDA device needs Linux"
    if torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return "the fake CUDA device needs a torch without CUDA"
    return None


def _register_guard() -> None:
    """Give CUDA a device guard: indexing, contiguous() and the like ask for one, and a torch without CUDA has none.
    That of meta tensors, which does nothing, will do."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * _DEVICE_TYPES).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    if not registry[_CUDA]:
        registry[_CUDA] = registry[_META]
