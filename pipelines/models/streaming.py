"""Text encoders whose weights stay in host memory, and come to the device block by block as they run.

Knows modules and their hooks; knows neither pipelines by name nor runs. An encoder runs once a prompt and takes a
quarter to a half of a model's weights. While one block runs, the next is on its way, on a stream of its own: two blocks
are on the device at most. Weights never change, so nothing is copied back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines.models import transfer

MIN_STREAMED_BYTES = 1 << 20  # outside of blocks; smaller tensors, norms mostly, stay on the device


def encoders(pipeline: Any) -> dict[str, torch.nn.Module]:
    """The text encoders of a pipeline, by the names of their components."""
    return {
        name: part
        for name, part in pipeline.components.items()
        if name.startswith("text_encoder") and isinstance(part, torch.nn.Module)
    }


class Copies:
    """Copies to a device, on a stream of their own where it has streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def begin(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Copies of host tensors. Whoever reads them must have called ``wait``."""
        if self._stream is None:
            return [tensor.to(self._device, copy=True) for tensor in tensors]
        with torch.cuda.stream(self._stream):
            return [tensor.to(self._device, non_blocking=True) for tensor in tensors]

    def wait(self, tensors: list[torch.Tensor]) -> None:
        """Have the caller's stream wait for these copies. Their memory is not given out again before it has read them,
        though it belongs to the other stream."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)


class Streamed:
    """One encoder, streamed. Its hooks are called on the thread that runs it, one forward at a time."""

    def __init__(self, encoder: torch.nn.Module, device: torch.device, copies: Copies, *, pinned: bool) -> None:
        self._copies = copies
        self._device = device
        self._host: dict[torch.nn.Parameter, torch.Tensor] = {}  # tied ones once
        self._order: list[torch.nn.Module] = []  # of the units, as they ran in the last forward
        self._now: list[torch.nn.Module] = []  # as they have run in this one
        self._coming: dict[torch.nn.Module, list[torch.Tensor]] = {}
        self._units = dict(_units(encoder))
        for parameter in (each for parameters in self._units.values() for each in parameters):
            host = parameter.data
            self._host.setdefault(parameter, host.pin_memory() if pinned else host)
        self.rest_to(encoder, device)
        for module in self._units:
            module.register_forward_pre_hook(self._bring)
            module.register_forward_hook(self._let_go, always_call=True)
        encoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        encoder.register_forward_hook(self._end, always_call=True)

    @property
    def parameters(self) -> set[torch.nn.Parameter]:
        """Those that stay in host memory."""
        return set(self._host)

    def rest_to(self, encoder: torch.nn.Module, device: torch.device) -> None:
        """Bring what is not streamed to ``device``."""
        for parameter, host in self._host.items():
            parameter.data = host
        for tensor in (*encoder.parameters(), *encoder.buffers()):
            if tensor not in self._host:
                tensor.data = tensor.data.to(device)

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Pipelines may take the encoder's own device for that of its inputs, which is the host's."""
        self._now = []
        return _to(args, self._device), _to(kwargs, self._device)

    def _end(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        self._order = self._now
        self._coming.clear()  # what did not come to run: a forward that failed

    def _bring(self, module: torch.nn.Module, args: Any) -> None:
        there = self._coming.pop(module, None) or self._begin_copy(module)
        self._copies.wait(there)
        for parameter, tensor in zip(self._units[module], there, strict=True):
            parameter.data = tensor
        self._now.append(module)
        following = self._following()
        if following is not None and following not in self._coming:
            self._coming[following] = self._begin_copy(following)

    def _let_go(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        for parameter in self._units[module]:
            parameter.data = self._host[parameter]

    def _begin_copy(self, module: torch.nn.Module) -> list[torch.Tensor]:
        return self._copies.begin([self._host[parameter] for parameter in self._units[module]])

    def _following(self) -> torch.nn.Module | None:
        """What ran next in the last forward, if this one has gone the same way."""
        done = len(self._now)
        return self._order[done] if done < len(self._order) and self._order[done - 1] is self._now[-1] else None


def _units(module: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, list[torch.nn.Parameter]]]:
    """What comes to the device at once: a block of a list of blocks with all its parameters, and elsewhere a module
    with large parameters of its own."""
    own = [each for each in module.parameters(recurse=False) if each.nbytes >= MIN_STREAMED_BYTES]
    if own:
        yield module, own
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            yield from ((block, list(block.parameters())) for block in child if any(True for _ in block.parameters()))
        else:
            yield from _units(child)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(_to(each, device) for each in value)
    if type(value) is dict:
        return {name: _to(each, device) for name, each in value.items()}
    return value


def stream_encoders(
    pipeline: Any, device: torch.device, *, host_bytes: int, make_copies: Callable[[torch.device], Copies] = Copies
) -> dict[str, Streamed]:
    """Bring a pipeline to ``device``, but for its text encoders, which are streamed there as they run.

    They are pinned, which makes copies faster, if they take no more than ``host_bytes``; else they stay in memory as
    the files were read.
    """
    found = encoders(pipeline)
    size = sum(parameter.nbytes for encoder in found.values() for parameter in encoder.parameters())
    copies, pinned = make_copies(device), device.type == "cuda" and size <= host_bytes
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name not in found:
            if device.type == "cuda":
                transfer.bring_weights(part, device)
            part.to(device)
    return {name: Streamed(encoder, device, copies, pinned=pinned) for name, encoder in found.items()}
