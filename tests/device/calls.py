"""What has to be caught before C++ sees it, since that would ask a driver: devices without an index, ``.data =``,
attention, torch.tensor.

Knows torch's functions in Python; operators are dispatch.py's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from tests.device import attention
from tests.device.machine import Machine, know, values

_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class Calls(TorchFunctionMode):
    """On while the fake devices are; a mode is each thread's own."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "device" in kwargs:
            kwargs = {**kwargs, "device": self._indexed(kwargs["device"])}
        if func is torch.Tensor.to:
            args = tuple(self._indexed(arg) for arg in args)
        elif func is torch.Tensor.cuda:
            wanted = args[1] if len(args) > 1 else kwargs.get("device")
            if wanted is None:
                wanted = "cuda"
            device = torch.device("cuda", wanted) if isinstance(wanted, int) else self._indexed(wanted)
            return args[0].to(device, non_blocking=kwargs.get("non_blocking", False))
        elif func in (torch.tensor, torch.as_tensor) and args and not isinstance(args[0], torch.Tensor):
            args = (_plain(args[0]), *args[1:])
        elif func is torch.Tensor.numpy and isinstance(args[0], FakeTensor) and args[0].is_cuda:
            raise TypeError(
                f"can't convert {args[0].device} device type tensor to numpy. "
                "Use Tensor.cpu() to copy the tensor to host memory first."
            )
        elif func == _SET_DATA and any(isinstance(each, FakeTensor) for each in args):
            set_data(*args)
            return None
        elif func is attention.ATTENTION:
            query = args[0] if args else kwargs["query"]
            if isinstance(query, FakeTensor) and query.is_cuda:
                return attention.attend(self._machine, *args, **kwargs)
        return func(*args, **kwargs)

    def _indexed(self, item: Any) -> Any:
        """The device that "cuda" stands for in this thread."""
        if isinstance(item, str) and item == "cuda":
            item = torch.device(item)
        if isinstance(item, torch.device) and item.type == "cuda" and item.index is None:
            return torch.device("cuda", self._machine.current)
        return item


def _plain(item: Any) -> Any:
    """Lists of numbers, for torch.tensor: it would read a device's numbers past every mode."""
    if isinstance(item, FakeTensor):
        return item.item() if item.dim() == 0 else item.tolist()
    if isinstance(item, list | tuple):
        return type(item)(_plain(each) for each in item)
    return item


def set_data(tensor: Any, data: Any) -> None:
    """``tensor.data = data`` where one of them is a device's: the object stays, all that it is becomes the other's."""
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    known = values(data) if isinstance(data, FakeTensor) else None
    other = data.detach()
    other.__class__, tensor.__class__ = tensor.__class__, other.__class__
    other.__dict__, tensor.__dict__ = tensor.__dict__, other.__dict__
    torch._C._swap_tensor_impl(tensor, other)
    if isinstance(tensor, FakeTensor):
        know(tensor, known)
    if is_parameter:
        if isinstance(tensor, FakeTensor):
            tensor._is_param = True
        else:
            tensor.__class__ = torch.nn.Parameter


def apply(module: torch.nn.Module, function: Any, recurse: bool = True) -> torch.nn.Module:
    """nn.Module._apply as it is between real devices: a parameter stays the object that it is, so that tied weights
    stay tied. torch's own takes another way for FakeTensors."""
    if recurse:
        for child in module.children():
            child._apply(function)  # type: ignore[no-untyped-call]
    for parameter in module._parameters.values():
        if parameter is not None:
            with torch.no_grad():
                applied = function(parameter)
            if applied is not parameter:
                parameter.data = applied
    for key, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[key] = function(buffer)
    return module
