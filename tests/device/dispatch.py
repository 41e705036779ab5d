"""One operator: on the host as it is, on a device by torch's own rules for shapes, with memory, values and faults.

Knows operators; what crosses between host and device is crossings.py's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.device.crossings import CROSSINGS, Then
from tests.device.graphs import computing
from tests.device.machine import Machine, collect, know, values

_aten = torch.ops.aten


class Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """On while the fake devices are; a mode is each thread's own."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._machine = machine

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        machine = self._machine
        if func._overloadpacket is _aten.to:
            func, args, kwargs = _as_copy(func, args, kwargs)
        tensors = list(collect((*args, *kwargs.values())))
        wanted = kwargs.get("device")
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors) and (
            wanted is None or torch.device(wanted).type != "cuda"
        ):
            return _on_host(machine, func, args, kwargs)
        with machine.lock:
            for tensor in tensors:
                if tensor.is_cuda:
                    machine.devices[tensor.device.index].require_alive()
            machine.require_no_fault(func)
            crossing = CROSSINGS.get(func)
            if crossing is not None:
                out = crossing(machine, func, args, kwargs)
                if isinstance(out, Then):
                    func, args, kwargs = out
                elif out is not NotImplemented:
                    return out
            return _on_device(machine, func, args, kwargs)


def _as_copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """``aten.to`` that goes to another device, as a copy. It comes whole in inference mode alone, where autograd does
    not take it apart."""
    given = (*args[1:], *kwargs.values())
    device = next((each for each in given if isinstance(each, torch.device)), None)
    if device is None or device.type == args[0].device.type:
        return func, args, kwargs
    dtype = next((each for each in given if isinstance(each, torch.dtype)), None)
    non_blocking = bool(kwargs.get("non_blocking") or (len(args) > 3 and args[3] is True))
    return _aten._to_copy.default, args[:1], {"device": device, "dtype": dtype, "non_blocking": non_blocking}


def _on_host(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func is _aten.is_pinned.default:
        return machine.is_pinned(args[0])
    if func is _aten._pin_memory.default:
        out = args[0].clone()
        machine.pin(out)
        return out
    if kwargs.get("pin_memory"):
        out = func(*args, **{**kwargs, "pin_memory": False})
        machine.pin(out)
        return out
    return func(*args, **kwargs)


def _on_device(machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    with machine.fake:
        out = func(*args, **kwargs)
    made = [tensor for tensor in collect((out,)) if isinstance(tensor, FakeTensor)]
    machine.account(made)
    machine.launches += _launches(func) and machine.captures.here is None
    _compute(machine, func, args, kwargs, made)
    return out


def _compute(
    machine: Machine, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: list[FakeTensor]
) -> None:
    """Give the results their values, if those of all arguments are known; else forget what was known of them."""
    known = all(values(tensor) is not None for tensor in collect((*args, *kwargs.values())))
    random = torch.Tag.nondeterministic_seeded in func.tags
    if not known or random or not all(machine.keeps(tensor) for tensor in made):
        if _is_mutable(func):
            for tensor in made:
                know(tensor, None)
        return
    try:
        computed = func(*_known(args), **_known(kwargs))
    except Exception as error:  # an operator that the host does not have
        machine.mismatches[f"{func}: {type(error).__name__}: {str(error)[:120]}"] += 1
        return
    fresh: list[torch.Tensor] = []
    for tensor, value in zip(made, collect((computed,)), strict=False):
        if tensor.shape == value.shape and tensor.dtype == value.dtype:
            is_new = not _is_of(value, (*args, *kwargs.values()))
            laid_out = _laid_out(tensor, value) if is_new and tensor.stride() != value.stride() else value
            know(tensor, laid_out)
            fresh += [laid_out] * is_new
        else:
            machine.mismatches[f"{func}: {tuple(tensor.shape)} {tensor.dtype}, not {tuple(value.shape)}"] += 1
    capture = machine.captures.here
    if capture is not None and (fresh or _is_mutable(func)):
        capture.launched(computing(func, _known(args), _known(kwargs), fresh), fresh)


def _is_of(value: torch.Tensor, arguments: tuple[Any, ...]) -> bool:
    """Whether a value is a view of an argument's."""
    storage = value.untyped_storage()._cdata
    known = (values(tensor) for tensor in collect(arguments))
    return any(each is not None and each.untyped_storage()._cdata == storage for each in known)


def _laid_out(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The values in the device's layout, where a kernel of the host chose another: what is a view of the one must be a
    view of the other."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=value.dtype).copy_(value)


@cache
def _launches(func: Any) -> bool:
    """Does an operator have the device compute? Views and memory alone are the host's."""
    name = func._overloadpacket.__name__
    return not func.is_view and name not in ("detach", "_unsafe_view", "alias", "record_stream") and "empty" not in name


@cache
def _is_mutable(func: Any) -> bool:
    return bool(func._schema.is_mutable)


def _known(item: Any) -> Any:
    """The same arguments with values in place of a device's tensors, and the host as their device."""
    if isinstance(item, FakeTensor):
        return values(item)
    if isinstance(item, list | tuple):
        return type(item)(_known(each) for each in item)
    if isinstance(item, dict):
        return {
            key: torch.device("cpu") if key == "device" and value is not None else _known(value)
            for key, value in item.items()
        }
    return item
