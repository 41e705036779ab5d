"""How many threads a worker on the CPU computes with, where the setting leaves it to us.

Knows the kernel's files about processors and control groups; knows neither torch nor devices. What is read and what
follows from it are apart, so that a test can describe any machine. Threads of one computation wait for each other
after each of its parts: one that has no core of its own holds up all others, and so does one that a quota stops.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

OWN_THREADS = "OMP_NUM_THREADS"  # the owner's own word, read as torch is imported by all that computes
_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_GROUPS = "sys/fs/cgroup"


@dataclass(frozen=True)
class Cores:
    """What the system says of the processors that this process may use."""

    cpus: int  # that its affinity allows
    physical: int  # cores that these are on: two hardware threads of one share its arithmetic
    quota: float | None = None  # processors' worth of time that its control groups grant; None: no limit

    @property
    def usable(self) -> int:
        """The cores that can compute at the same time."""
        granted = self.physical if self.quota is None else min(self.physical, int(self.quota))
        return max(1, granted)

    def threads(self, workers: int = 1) -> int:
        """Of each of so many workers."""
        return max(1, self.usable // max(1, workers))

    def __str__(self) -> str:
        said = f"{self.physical} core{'s' if self.physical > 1 else ''} for this process"
        if self.cpus > self.physical:
            said += f" ({self.cpus} hardware threads)"
        return said if self.quota is None else f"{said}, of which its control group grants {self.quota:g}"


def read(root: Path = _ROOT) -> Cores:
    """Those of this process, on the machine whose files are under ``root``."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return Cores(len(allowed), _physical(allowed, root), _quota(root))


def _physical(allowed: set[int], root: Path) -> int:
    """A processor of which the kernel does not say whose core it shares counts as one."""
    cores: set[frozenset[int]] = set()
    for cpu in allowed:
        siblings = {cpu}
        with contextlib.suppress(OSError, ValueError):
            siblings |= _listed((root / _CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        cores.add(frozenset(siblings))
    return len(cores)


def _listed(text: str) -> set[int]:
    """The numbers of a list of the kernel: ``0-3,8`` is 0, 1, 2, 3 and 8. Raises ValueError."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _quota(root: Path) -> float | None:
    """The least that any control group around this process grants, of either version."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    granted: list[float] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":  # version 2
            granted += _granted(root / _GROUPS, path, _of_version_2)
        elif "cpu" in controllers.split(","):
            for mounted in {controllers, "cpu"}:
                granted += _granted(root / _GROUPS / mounted, path, _of_version_1)
    return min(granted, default=None)


def _of_version_2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)  # no limit: "max", which is no number


def _of_version_1(folder: Path) -> float:
    quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return int(quota) / int(period)  # no limit: -1


def _granted(mounted: Path, path: str, of: Callable[[Path], float]) -> Iterator[float]:
    """What the group and those around it grant. In a container ``path`` may be one of the host, of which only the end,
    the container's own, is mounted: so every part of the way is looked for, up to where it is mounted."""
    group = mounted / path.lstrip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            value = of(folder)
            if value > 0:
                yield value
        if folder == mounted:
            return
