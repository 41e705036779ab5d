"""The machine, as far as it can be told without torch: processor, memory, disk, driver.

Knows the files of the kernel; knows neither models nor settings. Each reader takes the root of the file system, so that
a test can describe another machine.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
from pathlib import Path

import msgspec

from server.worker import cores
from server.worker.cores import Cores

GIB = 1 << 30
_ROOT = Path("/")


class Host(msgspec.Struct, frozen=True):
    """The machine without its devices."""

    system: str
    python: str
    processor: str
    cores: int  # that can compute for this process at the same time
    processors: Cores
    memory_bytes: int  # 0: unknown
    memory_limit_bytes: int | None  # of the container, where it has one
    data_dir: str
    disk_free_bytes: int
    data_dir_problem: str | None
    driver: str | None  # of NVIDIA


def read_host(data_dir: Path, root: Path = _ROOT) -> Host:
    """The machine that this process runs on."""
    folder = _nearest(data_dir)
    processors = cores.read(root)
    writable = os.access(folder, os.W_OK | os.X_OK)
    return Host(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        processor=_processor(root),
        cores=processors.usable,
        processors=processors,
        memory_bytes=_memory(root),
        memory_limit_bytes=_memory_limit(root),
        data_dir=str(data_dir),
        disk_free_bytes=shutil.disk_usage(folder).free,
        data_dir_problem=None if writable else f"{folder} is not writable for user {_user()}",
        driver=_driver(root),
    )


def has_cuda_device(root: Path = _ROOT) -> bool:
    """Does the system show an NVIDIA card?"""
    return any((root / "dev" / name).exists() for name in ("nvidiactl", "nvidia0"))


def _user() -> int | str:
    return os.getuid() if hasattr(os, "getuid") else "this user"


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest of those around it that there is."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())


def _processor(root: Path) -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", (root / "proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
        if found is not None:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _memory(root: Path) -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"^MemTotal:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return 0


def _memory_limit(root: Path) -> int | None:
    """The least limit of the control groups (v2) around this process."""
    limits = []
    with contextlib.suppress(OSError):
        own = next(
            (line[3:] for line in (root / "proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "/"
        )
        group = root / "sys/fs/cgroup" / own.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit: "max"
                limits.append(int((folder / "memory.max").read_text()))
    return min(limits, default=None)


def _driver(root: Path) -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(r"\s(\d+\.\d[\d.]*)\s", (root / "proc/driver/nvidia/version").read_text())
        if found is not None:
            return found[1]
    return None
