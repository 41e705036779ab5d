"""Weights on their way between host memory and a CUDA device, beside an engine that is busy there.

Knows tensors, streams and page-locked memory; knows neither pipelines nor budgets. Copies run on a stream of their own:
on the default one they would wait for the engine's steps, and its steps for them. The device copies at the bus's speed,
and without holding up the host, from page-locked memory alone. What comes from files is copied there first, through
two buffers in turn; what has been on the device stays in page-locked memory once it has left, since weights never
change: it leaves the next time without being copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from pipelines.models import allocator

STAGE_BYTES = 32 << 20
STAGES = 2
SLAB_BYTES = 256 << 20  # of page-locked memory; larger tensors have one of their own
_ALIGNMENT = 64  # bytes; a view of a slab must begin at a multiple of its elements' size


def is_plain(tensor: torch.Tensor) -> bool:
    """Can a tensor be copied as bytes? Not those of torchao and bitsandbytes, which hold others, nor GGUF's, which know
    a type beside their bytes, and none with gaps."""
    words = ("__tensor_flatten__", "quant_type")
    holds_others = any(hasattr(tensor, word) for word in words) or type(tensor).__module__.startswith("bitsandbytes")
    return not holds_others and tensor.is_contiguous()


def plain_tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    """A module's parameters and buffers that can be copied as bytes, each once."""
    return [tensor for tensor in (*module.parameters(), *module.buffers()) if is_plain(tensor)]


def bring_weights(module: torch.nn.Module, device: torch.device) -> None:
    """Bring what can be copied as bytes of a module to ``device``; return when it is there. Its own ``to`` brings the
    rest."""
    bring_tensors([tensor for tensor in plain_tensors(module) if tensor.device.type == "cpu"], device)


def bring_tensors(tensors: Sequence[torch.Tensor], device: torch.device) -> None:
    """Bring host tensors to ``device``; return when they are there."""
    with torch.no_grad():
        there = [torch.empty_like(tensor, device=device) for tensor in tensors]
        with _Copying(device) as copying:
            for target, source in zip(there, tensors, strict=True):
                copying.copy(target.detach(), source.detach())
        for tensor, target in zip(tensors, there, strict=True):
            tensor.data = target


class _Copying:
    """A stream for copies. What was begun inside has been done outside."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # What the memory of the targets was used for before may still be running.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._stages: list[_Stage] = []
        self._turn = 0

    def __enter__(self) -> _Copying:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stream.synchronize()

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy between the device and page-locked memory, or to the device from other memory by way of a buffer."""
        if target.numel() == 0:
            return
        if target.device.type == "cpu" or source.is_pinned():
            with torch.cuda.stream(self._stream):
                target.copy_(source, non_blocking=True)
            return
        into, out_of = _bytes(target), _bytes(source)
        done = 0
        while done < len(into):
            stage = self._stage()
            size = min(stage.room, len(into) - done)
            part = stage.take(out_of[done : done + size])
            with torch.cuda.stream(self._stream):
                into[done : done + size].copy_(part, non_blocking=True)
            done += size

    def _stage(self) -> _Stage:
        """A buffer with room."""
        if not self._stages:
            self._stages = [_Stage() for _ in range(STAGES)]
        if not self._stages[self._turn].room:
            self._stages[self._turn].leaves(self._stream)
            self._turn = (self._turn + 1) % STAGES
            self._stages[self._turn].wait()
        return self._stages[self._turn]


class _Stage:
    """A page-locked buffer that is filled from its start, and again once its copies have been made."""

    def __init__(self) -> None:
        self._bytes = torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=True)
        self._copied: Any = None
        self._used = 0

    @property
    def room(self) -> int:
        return STAGE_BYTES - self._used

    def take(self, source: torch.Tensor) -> torch.Tensor:
        """The bytes of ``source``, page-locked."""
        part = self._bytes[self._used : self._used + len(source)]
        part.copy_(source)
        self._used += len(source)
        return part

    def leaves(self, stream: Any) -> None:
        """All that it holds is under way."""
        self._copied = stream.record_event()

    def wait(self) -> None:
        """Wait until it may be filled anew."""
        if self._copied is not None:
            self._copied.synchronize()
        self._used = 0


class HostCopy:
    """Tensors of a device in page-locked host memory, packed into slabs: torch rounds each block that it locks up."""

    def __init__(self, tensors: Sequence[torch.Tensor], device: torch.device) -> None:
        self._device = device
        self._views: list[tuple[torch.Tensor, torch.Tensor]] = []  # each tensor, and its place here
        with torch.no_grad(), _Copying(device) as copying:
            for slab in _packed([tensor.nbytes for tensor in tensors]):
                memory = torch.empty(slab.size, dtype=torch.uint8, pin_memory=True)
                for index, offset in slab.places:
                    tensor = tensors[index]
                    view = memory[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
                    copying.copy(view, tensor.detach())
                    self._views.append((tensor, view))

    def leave(self) -> None:
        """Have the tensors be those of the host."""
        for tensor, view in self._views:
            tensor.data = view

    def come_back(self) -> None:
        """Bring the tensors to the device again; the copy stays."""
        bring_tensors([tensor for tensor, _ in self._views], self._device)


def host_bytes(sizes: Iterable[int]) -> int:
    """Bytes of page-locked memory that a copy of tensors of so many bytes takes."""
    return sum(allocator.pinned_bytes(slab.size) for slab in _packed(list(sizes)))


class _Slab:
    """Where tensors lie in one block: their index and offset."""

    def __init__(self) -> None:
        self.size = 0
        self.places: list[tuple[int, int]] = []

    def add(self, index: int, size: int) -> None:
        self.places.append((index, self.size))
        self.size += _aligned(size)


def _packed(sizes: list[int]) -> Iterator[_Slab]:
    """The largest first, each into the first slab that has room: so the rest of a slab is small."""
    slabs: list[_Slab] = []
    for index in sorted((index for index, size in enumerate(sizes) if size), key=lambda index: -sizes[index]):
        slab = next((slab for slab in slabs if slab.size + sizes[index] <= SLAB_BYTES), None)
        if slab is None:
            slab = _Slab()
            slabs.append(slab)
        slab.add(index, sizes[index])
    return iter(slabs)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
