"""The machine that has the fake devices: their memory, the host's pinned memory, waits, faults, and known values.

Knows tensors and storages; knows no operators (dispatch.py) and nothing of torch.cuda (torch_cuda.py). A tensor of a
device is a FakeTensor: torch computes its shape, strides, type and device, and stores nothing. One that came from the
host may keep its *values*, a CPU tensor; so do results of operators whose every tensor's values are known.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.device.allocator import ALLOCATORS, Allocator, NoRoom
from tests.device.cards import MIB, Card
from tests.device.graphs import UNSUPPORTED, Captures, PoolMemory
from tests.device.pinned import NoPinnedMemory, PinnedMemory
from tests.device.waits import Waits, site

NO_MEMORY = 2  # cudaErrorMemoryAllocation
ASSERT_TRIGGERED = 710  # cudaErrorAssert


class _Mode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Never touches a device, whatever torch.cuda says."""

    @property
    def avoid_device_init(self) -> bool:
        return True


class Device:
    """One card: its memory, and whether it is lost to this process."""

    def __init__(self, card: Card, memory: Allocator) -> None:
        self.card = card
        self.memory = memory
        self.retries = 0
        self._lost: BaseException | None = None
        self._dying: BaseException | None = None

    @property
    def free(self) -> int:
        """Bytes that cudaMemGetInfo calls free."""
        return self.card.free - self.memory.reserved

    def lose(self, error: BaseException, *, at_next_wait: bool) -> None:
        if at_next_wait:
            self._dying = error
        else:
            self._lost = error

    def waited(self) -> None:
        """The host learns at a wait what a kernel did to the device."""
        if self._dying is not None:
            self._lost = self._dying
        self.require_alive()

    def require_alive(self) -> None:
        if self._lost is not None:
            raise accelerator_error(str(self._lost), int(getattr(self._lost, "error_code", ASSERT_TRIGGERED)))


_TOLD_BY_NOBODY = ("synchronize", "event.synchronize", "cudaMalloc")  # torch warns of the others where it is told to


class Machine:
    """``count`` cards alike, and the host they are in."""

    def __init__(
        self, card: Card, *, count: int = 1, allocator: str = "exact", values: int | None = None, pinned: PinnedMemory
    ) -> None:
        """``values``: the largest tensor, in elements, whose values are kept; None keeps all, and computes all."""
        self.devices = [Device(card, ALLOCATORS[allocator](card.free)) for _ in range(count)]
        self.pinned = pinned
        self.warns_of_waits = False  # torch.cuda.set_sync_debug_mode
        self.waits = Waits()
        self.unknown: Counter[str] = Counter()  # lines that read values that nobody knows
        self.launches = 0  # operators that compute on a device: a kernel each, or a few
        self.mismatches: Counter[str] = Counter()  # where the host's result is not of the shape or type foretold
        self.attention: Counter[str] = Counter()  # kernels that torch would choose
        self.trace: list[tuple[int, int]] | None = None  # (storage, bytes) as allocated; (storage, 0) as freed
        self.lock = threading.RLock()
        self.captures = Captures()
        self.fake = _Mode(allow_non_fake_inputs=True)
        self._max_values = values
        self._live: dict[int, Any] = {}  # storage → its block
        self._pinned: dict[int, int] = {}  # storage → bytes of its block
        self._faults: list[tuple[str, Callable[[], BaseException], list[int]]] = []
        self._here = threading.local()

    # Which device and stream a thread is on.

    @property
    def current(self) -> int:
        return getattr(self._here, "index", 0)

    @current.setter
    def current(self, index: int) -> None:
        if not 0 <= index < len(self.devices):
            raise accelerator_error("CUDA error: invalid device ordinal", 101)
        self._here.index = index

    @property
    def stream(self) -> Any:
        """The stream that this thread is on; None for the default."""
        return getattr(self._here, "stream", None)

    @contextlib.contextmanager
    def on_stream(self, stream: Any) -> Iterator[None]:
        before, self._here.stream = self.stream, stream
        try:
            yield
        finally:
            self._here.stream = before

    # Waits and faults.

    def wait(self, kind: str, index: int | None = None) -> None:
        """The host waits for a device, and learns whether that is lost. Raises where a capture forbids it."""
        self.require_no_capture()
        self.waits.note(kind, "default" if self.stream is None else "side")
        if self.warns_of_waits and kind not in _TOLD_BY_NOBODY:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)
        self.devices[self.current if index is None else index].waited()

    def require_no_capture(self) -> None:
        """Raises, and voids the capture, where the running thread may not ask the device for anything."""
        capture = self.captures.forbidding()
        if capture is not None:
            capture.is_void = True
            raise accelerator_error("CUDA error: operation not permitted when stream is capturing", UNSUPPORTED)

    def lose(self, index: int = 0, *, at_next_wait: bool = True, code: int = ASSERT_TRIGGERED) -> None:
        """As a kernel that asserts does: told at the next wait, and from then on by every call."""
        error = accelerator_error("CUDA error: device-side assert triggered", code)
        self.devices[index].lose(error, at_next_wait=at_next_wait)

    def fail(self, operator: str, error: Callable[[], BaseException], *, times: int = 1, after: int = 0) -> None:
        """Let operators with this word in their name raise, ``times`` times, once ``after`` of them have passed."""
        self._faults.append((operator, error, [after, times]))

    def require_no_fault(self, operator: Any) -> None:
        for word, error, left in self._faults:
            if left[1] > 0 and word in str(operator):
                if left[0] > 0:
                    left[0] -= 1
                else:
                    left[1] -= 1
                    raise error()

    # Memory.

    def account(self, tensors: Iterable[FakeTensor]) -> None:
        """Allocate what is new among tensors of a device. Raises OutOfMemoryError."""
        for tensor in tensors:
            if tensor.fake_device.type == "cuda":
                storage = tensor.untyped_storage()
                if storage._cdata not in self._live:
                    self._allocate(storage, self.devices[tensor.fake_device.index])

    def _allocate(self, storage: Any, device: Device) -> None:
        key, size = storage._cdata, storage.nbytes()
        if size == 0:
            self._live[key] = None
            weakref.finalize(storage, self._live.pop, key, None)
            return
        capture, flushes = self.captures.here, device.memory.flushes
        memory: Allocator | PoolMemory = device.memory if capture is None else capture.memory
        try:
            self._live[key] = memory.malloc(size)
        except NoRoom as short:
            if capture is None:
                self.wait("cudaMalloc")
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / MIB:.2f} MiB. {short};"
                f" {device.memory.allocated / MIB:.0f} MiB allocated, {device.memory.reserved / MIB:.0f} MiB reserved"
            ) from None
        finally:
            device.retries += device.memory.flushes - flushes
        if self.trace is not None:
            self.trace.append((key, size))
        weakref.finalize(storage, self._release, key, memory)

    def _release(self, key: int, memory: Allocator | PoolMemory) -> None:
        with self.lock:
            memory.free(self._live.pop(key))
            if self.trace is not None:
                self.trace.append((key, 0))

    def pin(self, tensor: torch.Tensor) -> None:
        """Let a tensor of the host be in page-locked memory. Raises AcceleratorError, as CUDA does."""
        storage = tensor.untyped_storage()
        with self.lock:
            try:
                block = self.pinned.malloc(storage.nbytes())
            except NoPinnedMemory:
                raise accelerator_error("CUDA error: out of memory", NO_MEMORY) from None
            self._pinned[storage._cdata] = block
        weakref.finalize(storage, self._unpin, storage._cdata)

    def _unpin(self, key: int) -> None:
        with self.lock:
            self.pinned.free(self._pinned.pop(key))

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.untyped_storage()._cdata in self._pinned

    # Values.

    def keeps(self, tensor: torch.Tensor) -> bool:
        """Whether the values of a tensor so large are kept."""
        return self._max_values is None or tensor.numel() <= self._max_values

    def value_of(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What the host reads: what is known, or something harmless, which is counted."""
        known = values(tensor)
        if known is not None:
            return known.to(dtype).clone()
        self.unknown[site()] += 1
        if dtype is torch.bool:
            fill: float = True
        else:
            fill = 0.5 if dtype.is_floating_point else 128 if dtype is torch.uint8 else 1
        return torch.full(tuple(tensor.shape), fill, dtype=dtype)


def values(tensor: Any) -> torch.Tensor | None:
    """What is known of a tensor's numbers: of one of the host's, all."""
    if not isinstance(tensor, FakeTensor):
        return tensor if isinstance(tensor, torch.Tensor) else None
    known: torch.Tensor | None = getattr(tensor, "_known", None)
    return known


def know(tensor: Any, known: torch.Tensor | None) -> None:
    """Let a device's tensor have these values; None for values that nobody knows."""
    tensor._known = known


def collect(items: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among arguments or results."""
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from collect(item)


def accelerator_error(message: str, code: int) -> BaseException:
    """What torch raises for an error of CUDA's."""
    error: Any = torch.AcceleratorError(message)
    error.error_code = code
    return error  # type: ignore[no-any-return]
