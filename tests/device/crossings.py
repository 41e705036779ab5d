"""Operators that cross between host and device, or whose result depends on numbers: copies, item, nonzero, masks.

Knows which of them make the host wait, as torch's CUDA kernels do. Each function answers with a result, with the call
that is left to be made on the device (``Then``), or with NotImplemented for a call that does not cross after all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch._subclasses.fake_tensor import FakeTensor

from tests.device.cards import MIB
from tests.device.graphs import computing
from tests.device.machine import Machine, collect, know, values

Crossing = Callable[[Machine, Any, tuple[Any, ...], dict[str, Any]], Any]

_aten = torch.ops.aten


class Then(NamedTuple):
    """What is left of a call once its arguments are on the device."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_MAX_HOST_COPY = 64 * MIB  # of values that nobody knows: a larger tensor of the host is without storage too
_MASKS = (torch.bool, torch.uint8)


def _to_copy(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source = args[0]
    target = torch.device(kwargs.get("device") or source.device)
    dtype = kwargs.get("dtype") or source.dtype
    non_blocking = bool(kwargs.get("non_blocking"))
    if target.type == "cuda" and source.device.type in ("cpu", "meta"):
        return to_device(machine, source, target, dtype, kwargs.get("memory_format"), non_blocking=non_blocking)
    if target.type == "cpu" and source.device.type == "cuda":
        return _to_host(machine, source, dtype, non_blocking=non_blocking)
    return NotImplemented


def to_device(
    machine: Machine,
    source: torch.Tensor,
    target: torch.device,
    dtype: torch.dtype,
    memory_format: Any = None,
    *,
    non_blocking: bool = False,
) -> FakeTensor:
    """A copy on a device. From memory that is not pinned the host waits, whatever ``non_blocking`` says."""
    index = machine.current if target.index is None else target.index
    device = f"cuda:{index}"
    machine.devices[index].require_alive()
    shape = tuple(source.shape)
    with machine.fake:
        if memory_format not in (None, torch.preserve_format):
            out: Any = torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
        elif is_non_overlapping_and_dense_or_false(source):
            out = torch.empty_strided(shape, source.stride(), dtype=dtype, device=device)
        else:
            out = torch.empty(shape, dtype=dtype, device=device)
    machine.account([out])
    known = values(source)
    if known is not None and known.device.type == "cpu" and machine.keeps(source):
        copied = known.to(dtype, copy=True)
        know(out, copied)
        if machine.captures.here is not None:
            machine.captures.here.launched(computing(known.to, (dtype,), {}, [copied]), [copied])
    if source.numel() and source.device.type == "cpu" and not (non_blocking and machine.is_pinned(source)):
        machine.wait("H2D pageable" if non_blocking else "H2D", index)
    return out  # type: ignore[no-any-return]


def _to_host(machine: Machine, source: torch.Tensor, dtype: torch.dtype, *, non_blocking: bool) -> torch.Tensor:
    if not non_blocking:
        machine.wait("D2H", source.device.index)
    if values(source) is None and source.numel() * dtype.itemsize > _MAX_HOST_COPY:
        with machine.fake:
            out = torch.empty_like(source, dtype=dtype, device="cpu")
    else:
        out = machine.value_of(source, dtype)
    if non_blocking:  # torch then copies to pinned memory
        machine.pin(out)
    return out


def _copy(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[0], args[1]
    non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    if target.device.type == "cpu":
        if not (non_blocking and machine.is_pinned(target)):
            machine.wait("D2H copy_", source.device.index)
        unknown = values(source) is None and source.nbytes > _MAX_HOST_COPY  # left as it is: nobody can tell
        if not isinstance(target, FakeTensor) and not unknown:
            target.copy_(machine.value_of(source, target.dtype).expand_as(target))
        return target
    if source.device.type == "cpu":
        copied = to_device(machine, source, target.device, source.dtype, non_blocking=non_blocking)
        return Then(func, (target, copied), {})
    return NotImplemented


def _item(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args[0].device.type == "cuda":
        machine.wait("item", args[0].device.index)
    return machine.value_of(args[0], args[0].dtype).item()


def _equal(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    first, second = args
    if first.device != second.device:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {first.device}, {second.device}")
    machine.wait("equal", first.device.index)
    return torch.equal(machine.value_of(first, first.dtype), machine.value_of(second, second.dtype))


def _by_values(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator whose result's shape depends on numbers: the host reads them to know it."""
    tensors = [tensor for tensor in collect(args) if isinstance(tensor, FakeTensor)]
    device = tensors[0].device
    machine.wait(str(func.overloadpacket).removeprefix("aten."), device.index)
    plain = [machine.value_of(arg, arg.dtype) if isinstance(arg, torch.Tensor) else arg for arg in args]
    out = func(*plain, **kwargs)
    if isinstance(out, torch.Tensor):
        return _placed(machine, out, device)
    return tuple(_placed(machine, each, device) for each in out)


def _repeat_interleave(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return NotImplemented if kwargs.get("output_size") is not None else _by_values(machine, func, args, kwargs)


def _index(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Indexing by masks, which torch turns into numbers of rows first, or by indices that are still on the host."""
    source, indices, *rest = args
    device = source.device
    if device.type != "cuda" or all(i is None or (i.is_cuda and i.dtype not in _MASKS) for i in indices):
        return NotImplemented
    plain: list[Any] = []
    for index in indices:
        if index is None or (index.is_cuda and index.dtype not in _MASKS):
            plain.append(index)
        elif index.is_cuda:
            machine.wait("mask", device.index)
            rows = machine.value_of(index, torch.bool).nonzero()
            plain += [_placed(machine, column.contiguous(), device) for column in rows.unbind(1)]
        else:
            columns = index.nonzero().unbind(1) if index.dtype in _MASKS else (index,)
            plain += [to_device(machine, column, device, column.dtype) for column in columns]
    return Then(func, (source, plain, *rest), kwargs)


def _placed(machine: Machine, known: torch.Tensor, device: torch.device) -> Any:
    """A device's tensor with these values, which did not travel."""
    with machine.fake:
        out: Any = torch.empty(tuple(known.shape), dtype=known.dtype, device=device)
    machine.account([out])
    if machine.keeps(known):
        know(out, known)
    return out


def _is_pinned(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return machine.is_pinned(args[0])


CROSSINGS: dict[Any, Crossing] = {
    _aten._to_copy.default: _to_copy,
    _aten.copy_.default: _copy,
    _aten._local_scalar_dense.default: _item,
    _aten.equal.default: _equal,
    _aten.nonzero.default: _by_values,
    _aten.masked_select.default: _by_values,
    _aten._unique2.default: _by_values,
    _aten.unique_consecutive.default: _by_values,
    _aten.repeat_interleave.Tensor: _repeat_interleave,
    _aten.index.Tensor: _index,
    _aten.index_put_.default: _index,
    _aten.index_put.default: _index,
    _aten.is_pinned.default: _is_pinned,
}
