"""How much memory a device and the host have for models, measured now.

Knows torch's and the kernel's figures; knows neither models nor plans.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

from pipelines.models import allocator

WORKING_SHARE = 0.25  # of a device's memory: kept for latents, activations and decoding
_HOST_SHARE = 0.5  # of free host memory: for models that had to leave the device
_UNKNOWN_BYTES = 8 << 30  # of a host that does not say


def measure_budget(device: torch.device) -> tuple[int, int]:
    """Bytes for models on ``device``, and of host memory for models that left it, from what is free now."""
    host = free_host_bytes()
    if device.type == "cuda":
        return device_budget(device, 0), int(host * _HOST_SHARE)
    return host, 0


def device_budget(device: torch.device, resident: int) -> int:
    """Bytes for models on a CUDA device that holds ``resident`` bytes of them, from what is free now.

    What this process has beside them is activations, for which there is the working share. More than that is no longer
    anybody's to give.
    """
    free, _ = torch.cuda.mem_get_info(device)
    if allocator.is_async():  # CUDA's own pool: what torch calls reserved is not what it holds
        return int(free) + resident
    ours = int(free) + torch.cuda.memory_reserved(device)
    beside = torch.cuda.memory_allocated(device) - resident
    return ours - max(0, beside - int(ours * WORKING_SHARE))


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
