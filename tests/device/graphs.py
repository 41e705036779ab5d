"""CUDA graphs of the fake devices: what is launched in a capture is kept with its tensors, and computed by each replay.

In a capture nothing is computed: what comes of it is not a number (or 85) until the first replay, and a replay writes
to the very tensors of the capture. So who reads a graph's output too early, or keeps it past the next replay, draws
another picture. A wait of the capturing thread is an error, as CUDA has it, and voids the capture; emptying torch's
cache is one in any thread. A capture that failed stays underway for torch's allocator until that is told (torch before
2.13).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from tests.device.allocator import Allocator

UNSUPPORTED, VOID = 900, 901  # cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated
_GARBAGE = 85  # of numbers that are no floats

Step = Callable[[], None]


class PoolMemory:
    """What captures in one pool allocate: blocks that are used again, and go back to the device with the last graph."""

    def __init__(self, device: Allocator) -> None:
        self._device = device
        self._blocks: list[Any] = []
        self.reserved = self.in_use = 0
        self.graphs = 0

    def malloc(self, size: int) -> int:
        size = -(-size // 512) * 512
        more = self.in_use + size - self.reserved
        if more > 0:
            self._blocks.append(self._device.malloc(more))
            self.reserved += more
        self.in_use += size
        return size

    def free(self, block: int) -> None:
        self.in_use -= block
        self._give_back()

    def release(self) -> None:
        """One graph less."""
        self.graphs -= 1
        self._give_back()

    def _give_back(self) -> None:
        if self.graphs == 0 and self.in_use == 0:
            for block in self._blocks:
                self._device.free(block)
            self._blocks, self.reserved = [], 0


class Capture:
    """What a thread has launched since it began to capture."""

    def __init__(self, memory: PoolMemory, mode: str) -> None:
        self.memory = memory
        self.mode = mode
        self.thread = threading.get_ident()
        self.steps: list[Step] = []
        self.is_void = False
        self._made: list[torch.Tensor] = []

    def forbids_waits(self) -> bool:
        """May the running thread not wait for the device?"""
        return self.mode == "global" or (self.mode == "thread_local" and self.thread == threading.get_ident())

    def launched(self, step: Step, made: list[torch.Tensor]) -> None:
        """``step`` computes ``made`` anew, in place."""
        self.steps.append(step)
        self._made += made

    def spoil(self) -> None:
        """Nothing was computed."""
        for tensor in self._made:
            tensor.fill_(float("nan") if tensor.is_floating_point() else tensor.dtype is torch.bool or _GARBAGE)
        self._made = []


class Captures:
    """The captures of all threads; pools by their handles."""

    def __init__(self) -> None:
        self.underway: dict[Any, Capture] = {}  # pool handle → for torch's allocator
        self.replays = 0
        self.captured = 0
        self._pools: dict[Any, PoolMemory] = {}
        self._handles = 0
        self._here = threading.local()

    @property
    def here(self) -> Capture | None:
        """The running thread's."""
        return getattr(self._here, "capture", None)

    def handle(self) -> tuple[int, int]:
        self._handles += 1
        return 0, self._handles

    def forbidding(self) -> Capture | None:
        """A capture that makes a wait of the running thread an error."""
        return next((each for each in self.underway.values() if each.forbids_waits() and not each.is_void), None)

    def begin(self, pool: Any, mode: str, device: Allocator) -> Capture:
        assert self.here is None, "a thread captures one graph at a time"
        if pool in self.underway:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        memory = self._pools.get(pool)
        if memory is None or (memory.graphs == 0 and memory.reserved == 0):
            memory = self._pools[pool] = PoolMemory(device)
        memory.graphs += 1
        self._here.capture = self.underway[pool] = Capture(memory, mode)
        return self.underway[pool]

    def end(self, pool: Any) -> None:
        self._here.capture = None
        if not self.underway[pool].is_void:
            del self.underway[pool]

    def end_allocating(self, pool: Any) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        del self.underway[pool]

    def unused(self) -> int:
        """Bytes of pools that no tensor has."""
        return sum(pool.reserved - pool.in_use for pool in self._pools.values())


def computing(func: Any, args: Any, kwargs: Any, made: list[torch.Tensor]) -> Step:
    """Computes ``made`` anew with ``func``, all of the host."""

    def step() -> None:
        computed = func(*args, **kwargs)
        for target, source in zip(made, _flat(computed), strict=False):  # of what is written in place none is made
            target.copy_(source)

    return step


def _flat(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, list | tuple):
        for each in item:
            yield from _flat(each)
