"""What torch.cuda answers while the fake devices are on. Knows torch.cuda's names; knows no operators."""

from __future__ import annotations

import contextlib
import time
import types
from collections.abc import Iterator
from typing import Any

import torch

from tests.device.machine import Device, Machine
from tests.device.recorded import graph_class

# As the wheels for CUDA 13 have them.
_ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


class TorchCuda:
    """The functions of torch.cuda, by their names; ``classes`` are its classes."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def replacements(self) -> Iterator[tuple[Any, str, Any]]:
        """Whose attribute, its name, its value."""
        for name in dir(self):
            if not name.startswith("_") and name not in ("replacements", "classes"):
                yield torch.cuda, name, getattr(self, name)
        for name, value in self.classes().items():
            yield torch.cuda, name, value
        yield torch.cuda, "_lazy_init", lambda: None
        yield torch._C, "_cuda_endAllocateToPool", self._end_allocating
        yield torch.cuda, "_exchange_device", self._exchange
        yield torch.cuda, "_maybe_exchange_device", self._exchange
        yield torch.accelerator, "empty_host_cache", self._empty_host_cache
        yield torch.Tensor, "record_stream", lambda tensor, stream: None

    def _device(self, device: Any = None) -> Device:
        return self._machine.devices[self._index(device)]

    def _index(self, device: Any = None) -> int:
        if isinstance(device, int):
            return device
        index = None if device is None else torch.device(device).index
        return self._machine.current if index is None else index

    def _exchange(self, index: int) -> int:
        before = self._machine.current
        if index >= 0:
            self._machine.current = index
        return before

    def _empty_host_cache(self) -> None:
        self._machine.pinned.empty_cache()

    # What is there.

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return len(self._machine.devices)

    def current_device(self) -> int:
        return self._machine.current

    def set_device(self, device: Any) -> None:
        self._machine.current = self._index(device)

    def get_device_name(self, device: Any = None) -> str:
        return self._device(device).card.name

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return self._device(device).card.capability

    def get_device_properties(self, device: Any = None) -> Any:
        card = self._device(device).card
        major, minor = card.capability
        return types.SimpleNamespace(
            name=card.name, total_memory=card.total, major=major, minor=minor, multi_processor_count=128
        )

    def get_arch_list(self) -> list[str]:
        return list(_ARCHITECTURES)

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return including_emulation or self._device().card.capability >= (8, 0)

    def is_current_stream_capturing(self) -> bool:
        return self._machine.captures.here is not None

    def graph_pool_handle(self) -> tuple[int, int]:
        return self._machine.captures.handle()

    def _end_allocating(self, device: int, pool: Any) -> None:
        with self._machine.lock:
            self._machine.captures.end_allocating(pool)

    # Memory.

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        found = self._device(device)
        return found.free, found.card.total

    def memory_allocated(self, device: Any = None) -> int:
        return self._device(device).memory.allocated - self._machine.captures.unused()

    def memory_reserved(self, device: Any = None) -> int:
        return self._device(device).memory.reserved

    def max_memory_allocated(self, device: Any = None) -> int:
        return self._device(device).memory.peak_allocated

    def max_memory_reserved(self, device: Any = None) -> int:
        return self._device(device).memory.peak_reserved

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self._device(device).memory.reset_peaks()

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        found = self._device(device)
        memory = found.memory
        return {
            "allocated_bytes.all.current": memory.allocated,
            "allocated_bytes.all.peak": memory.peak_allocated,
            "reserved_bytes.all.current": memory.reserved,
            "reserved_bytes.all.peak": memory.peak_reserved,
            "num_alloc_retries": found.retries,
            "num_ooms": memory.ooms,
        }

    def host_memory_stats(self) -> dict[str, int]:
        return {"allocated_bytes.current": self._machine.pinned.reserved}

    def set_sync_debug_mode(self, mode: str) -> None:
        self._machine.warns_of_waits = mode == "warn"

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None:
        found = self._device(device)
        found.memory.limit = min(found.card.free, int(fraction * found.card.total))

    def empty_cache(self) -> None:
        with self._machine.lock:
            if self._machine.captures.underway:
                raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
            for device in self._machine.devices:
                device.memory.empty_cache()

    # Streams and waits.

    def synchronize(self, device: Any = None) -> None:
        self._machine.wait("synchronize", self._index(device))

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        with self._machine.on_stream(stream) if stream is not None else contextlib.nullcontext():
            yield

    def current_stream(self, device: Any = None) -> Any:
        return self._machine.stream or self.default_stream(device)

    def default_stream(self, device: Any = None) -> Any:
        return torch.cuda.Stream(torch.device("cuda", self._index(device)))  # type: ignore[no-untyped-call]

    def classes(self) -> dict[str, Any]:
        machine, index_of = self._machine, self._index

        class Event:
            """Has always happened: there is one queue, and nothing in it."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self._at = time.perf_counter()

            def record(self, stream: Any = None) -> None:
                self._at = time.perf_counter()

            def wait(self, stream: Any = None) -> None: ...

            def query(self) -> bool:
                machine.require_no_capture()
                return True

            def elapsed_time(self, later: Any) -> float:
                return float(later._at - self._at) * 1000

            def synchronize(self) -> None:
                machine.wait("event.synchronize")

        class Stream:
            """A stream of its device."""

            def __init__(self, device: Any = None, priority: int = 0) -> None:
                self.device = torch.device("cuda", index_of(device))
                self.device_index = self.device.index

            def wait_stream(self, other: Any) -> None: ...

            def wait_event(self, event: Any) -> None: ...

            def query(self) -> bool:
                return True

            def record_event(self, event: Any = None) -> Any:
                return event or Event()

            def synchronize(self) -> None:
                machine.wait("stream.synchronize", self.device_index)

            def __enter__(self) -> Any:
                self._on = machine.on_stream(self)
                self._on.__enter__()
                return self

            def __exit__(self, *error: Any) -> None:
                self._on.__exit__(*error)

        return {"Stream": Stream, "Event": Event, "CUDAGraph": graph_class(machine)}
