"""One CUDA graph: what a piece of work launches on a device, recorded once and launched again as a whole.

The seam to torch's graphs: knows torch.cuda's names and what a failed capture leaves behind; knows neither models nor
steps. Launching a graph costs the host one launch, whatever it holds. It holds addresses, not tensors: whoever replays
it keeps what it reads and writes.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
# Operators whose result the host reads, or whose shape it has to know: each waits for the device, in a capture it is an
# error. https://docs.pytorch.org/docs/stable/notes/cuda.html#constraints
_READS = frozenset(
    {
        _aten._local_scalar_dense.default,
        _aten.equal.default,
        _aten.is_nonzero.default,
        _aten.nonzero.default,
        _aten.masked_select.default,
        _aten._unique2.default,
        _aten.unique_consecutive.default,
        _aten.unique_dim.default,
    }
)
_INDEXED = frozenset({_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default})
_COPIES = frozenset({_aten._to_copy.default, _aten.copy_.default})


class Recorded(NamedTuple):
    """A graph, what its work gave (filled in by each replay), and what it reads beside its arguments."""

    graph: Any
    output: Any
    read: tuple[Any, ...]  # storages: their addresses are in the graph


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operators of the block: those that make the host wait for a device, and the memory that they read and
    did not make. Such memory may be a table that some class keeps for a while (Qwen-Image's positions)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []  # operators
        self._read: dict[int, Any] = {}  # storages, by identity
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((*args, *kwargs.values())))
        if _waits(func, args, kwargs, given):
            self.waits.append(str(func))
        for tensor in given:
            storage = tensor.untyped_storage()
            if tensor.is_cuda and storage._cdata not in self._made:
                self._read.setdefault(storage._cdata, storage)
        out = func(*args, **kwargs)
        for tensor in _tensors((out,)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._read:
                self._made.add(storage._cdata)
        return out

    def read(self, but: frozenset[int]) -> tuple[Any, ...]:
        """The storages that were read and not made, without those whose ``_cdata`` is in ``but``."""
        return tuple(storage for key, storage in self._read.items() if key not in but)


def record(
    work: Callable[[], Any], *, device: torch.device, pool: Any, stream: Any, weights: frozenset[int] = frozenset()
) -> Recorded:
    """Record what ``work`` launches: nothing is computed. It must have run on ``stream`` before, so that kernels are
    loaded and libraries have their workspaces there. ``weights`` are storages (``_cdata``) that somebody else keeps as
    long as the graph is replayed.

    Raises whatever ``work`` raises, and what torch says of a capture that failed; the device can be used as before
    then, but ``pool`` should not be used again: not every torch gives up its part of it.
    """
    graph = torch.cuda.CUDAGraph()
    index = torch.cuda._utils._get_device_index(device, optional=True)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # what torch keeps for others cannot be used in a pool
    with torch.cuda.device(index), torch.cuda.stream(stream):
        # Others load meanwhile, on threads of their own: that must not fail for us, nor we for it.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            with Watch() as watch:
                output = work()
        except BaseException:
            with contextlib.suppress(Exception):  # it says again that the capture is void
                graph.capture_end()
            _end_allocating(index, pool)
            raise
        try:
            graph.capture_end()
        except BaseException:
            _end_allocating(index, pool)
            raise
    return Recorded(graph, output, watch.read(but=weights))


def mend(device: torch.device) -> None:
    """Have a device be as before after a capture that failed: record and replay something that cannot fail. Its
    generator would otherwise go on as if it were captured. Raises where the device can no longer be used."""
    index = torch.cuda._utils._get_device_index(device, optional=True)
    torch.cuda.synchronize(device)
    numbers = torch.zeros(1, device=device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(index), torch.cuda.stream(stream):
        graph.capture_begin(pool=torch.cuda.graph_pool_handle(), capture_error_mode="thread_local")
        numbers.add_(1)
        graph.capture_end()
    graph.replay()
    torch.cuda.synchronize(device)
    graph.reset()
    torch.cuda.empty_cache()


def _end_allocating(index: int, pool: Any) -> None:
    """Tell torch's allocator that a capture is over, where it was not told: until then ``empty_cache`` is an error.
    torch before 2.13 forgets it (pytorch/pytorch#180395); where it was told, it says that there is none."""
    with contextlib.suppress(Exception):
        torch._C._cuda_endAllocateToPool(index, pool)


def _waits(func: Any, args: Any, kwargs: Any, given: list[torch.Tensor]) -> bool:
    """Does this operator make the host wait for a CUDA device?"""
    if not any(tensor.is_cuda for tensor in given):
        return func in _COPIES and _is_cuda(kwargs.get("device"))  # from the host's memory, which is seldom pinned
    if func in _READS:
        return True
    if func in _INDEXED:  # by a mask, or by numbers of the host's
        indices = [index for index in args[1] if index is not None]
        return any(not index.is_cuda or index.dtype in (torch.bool, torch.uint8) for index in indices)
    if func is _aten._to_copy.default:
        target = kwargs.get("device")
        return target is not None and not _is_cuda(target)
    if func is _aten.copy_.default:
        return any(not tensor.is_cuda for tensor in given)
    return func is _aten.repeat_interleave.Tensor and kwargs.get("output_size") is None


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _tensors(items: Any) -> Iterator[torch.Tensor]:
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from _tensors(item)
