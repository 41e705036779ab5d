"""A device's clock and memory, in the same words on CUDA and on the CPU.

Knows torch's figures; knows no models. On the CPU memory is not counted: sections can be run there, and what they say
of memory means nothing.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator

import torch

MIB = 1 << 20


class Probe:
    """What a section measures with."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"

    def synchronise(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], rounds: int = 3) -> float:
        """The median of some rounds, the device waited for; the first, which chooses kernels, does not count."""
        work()
        return statistics.median(self.once(work) for _ in range(rounds))

    def once(self, work: Callable[[], object]) -> float:
        self.synchronise()
        started = time.perf_counter()
        work()
        self.synchronise()
        return time.perf_counter() - started

    def tidy(self) -> None:
        """Give back what nobody uses, and forget the peak."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.is_cuda else 0

    def peak_allocated(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self.is_cuda else 0

    def peak_reserved(self) -> int:
        return torch.cuda.max_memory_reserved(self.device) if self.is_cuda else 0

    def total(self) -> int:
        return int(torch.cuda.mem_get_info(self.device)[1]) if self.is_cuda else 0

    @contextlib.contextmanager
    def at_most(self, size: int) -> Iterator[None]:
        """Let this process allocate no more than ``size`` bytes of the device meanwhile."""
        if not self.is_cuda:
            yield
            return
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / self.total()), self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)
