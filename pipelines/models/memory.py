"""How much memory a device and the host have for models, measured now.

Knows torch's and the kernel's figures; knows neither models nor plans.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import torch

from pipelines.models import allocator

WORKING_SHARE = 0.25  # of a device's memory: kept for latents, activations and decoding
_HOST_SHARE = 0.5  # of free host memory: for models that had to leave the device
_STATS = {
    "in_use": "allocated_bytes.all.current",
    "reserved": "reserved_bytes.all.current",
    "out_of_memory": "num_ooms",
}
_UNKNOWN_BYTES = 8 << 30  # of a host that does not say


def measure_budget(device: torch.device) -> tuple[int, int]:
    """Bytes for models on ``device``, and of host memory for models that left it, from what is free now."""
    if has_memory(device):
        return device_budget(device, 0), host_share()
    return free_host_bytes(), 0


def host_share() -> int:
    """Bytes of free host memory that models may take."""
    return int(free_host_bytes() * _HOST_SHARE)


def has_memory(device: torch.device) -> bool:
    """Has a device memory of its own, and does torch tell how much of it is free?"""
    return device.type in ("cuda", "xpu")


def device_budget(device: torch.device, resident: int, held: int = 0) -> int:
    """Bytes for models on a CUDA or XPU device that holds ``resident`` bytes of them, from what is free now.

    What this process has beside them is activations, and ``held`` bytes that torch keeps for CUDA graphs: for both
    there is the working share. More than that is no longer
    anybody's to give.
    """
    kind = getattr(torch, device.type)
    free, _ = kind.mem_get_info(device)
    if allocator.is_async():  # CUDA's own pool: what torch calls reserved is not what it holds
        return int(free) + resident
    ours = int(free) + int(kind.memory_reserved(device))
    beside = int(kind.memory_allocated(device)) - resident + held
    return ours - max(0, beside - int(ours * WORKING_SHARE))


def for_weights(budget: int, rooms: Iterable[int | None]) -> int:
    """Bytes of a budget that weights may take, where the work of some models takes so many beside them, if known."""
    most = int(budget * WORKING_SHARE)
    return budget - min(most, max((most if room is None else room for room in rooms), default=most))


def whole(device: torch.device) -> int:
    """Bytes of all memory of ``device``, in use or not; of the host's for a device without memory of its own."""
    if has_memory(device):
        return int(getattr(torch, device.type).mem_get_info(device)[1])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _UNKNOWN_BYTES


def usage(device: torch.device) -> dict[str, int]:
    """Bytes of a device's memory that are in use and that this process has reserved, and how often there was no room;
    empty for a device that does not say."""
    if device.type == "mps":
        return {"in_use": torch.mps.current_allocated_memory(), "reserved": torch.mps.driver_allocated_memory()}
    if device.type not in ("cuda", "xpu"):
        return {}
    stats = getattr(torch, device.type).memory_stats(device)
    return {name: int(stats.get(key, 0)) for name, key in _STATS.items()}


def give_back(device: torch.device) -> None:
    """Give what torch keeps for later back to the device, and pinned memory to the host."""
    if device.type == "cpu" or (device.type == "cuda" and not torch.cuda.is_available()):
        return
    getattr(torch, device.type).empty_cache()
    if device.type == "cuda":
        torch.accelerator.empty_host_cache()


def free_host_bytes(root: Path = Path("/")) -> int:
    """Bytes of host memory that this process may still take: what the machine has, or less where a container ends."""
    return min((_free_of_machine(root), *_free_of_groups(root)))


def _free_of_machine(root: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # No Linux: half of what is built in, for nothing tells what is free.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total // 2 if total > 0 else _UNKNOWN_BYTES
    return _UNKNOWN_BYTES


def _free_of_groups(root: Path) -> Iterator[int]:
    """For each control group (v2) around this process that has a limit, the bytes below it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        own = PurePosixPath(next(line for line in lines if line.startswith("0::")).removeprefix("0::").lstrip("/"))
        for group in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit: "max"
                folder = root / "sys/fs/cgroup" / group
                limit = int((folder / "memory.max").read_text(encoding="ascii"))
                used = int((folder / "memory.current").read_text(encoding="ascii"))
                yield max(0, limit - used + _given_back(folder))


def _given_back(folder: Path) -> int:
    """Bytes of files that a group's use counts, and that the kernel drops when the memory is wanted: weights, once
    read, would otherwise fill every container."""
    with contextlib.suppress(OSError, ValueError):
        rows = (line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return sum(int(value) for name, value in rows if name in ("active_file", "inactive_file"))
    return 0
