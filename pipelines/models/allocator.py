"""torch's allocators: what they are told before torch is imported, and what a pinned copy then takes.

Knows the environment and torch's version; imports no torch. An allocator reads its settings once, and one that meets a
key which it does not know fails at its first allocation: so each key is only set where the installed torch has it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

# The first is the name in new versions: 2.8 does not read it, 2.11 does. The rest are read too.
_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_ONE_NAME_SINCE = (2, 11)
_THRESHOLD = "pinned_max_round_threshold_mb"
_LARGEST_KEPT = "pinned_max_cached_size_mb"
_PINNED_SINCE = (2, 13)  # 2.12's headers have neither
# Above it pinned memory is not rounded up to a power of two. Never one key without the other: 2.13 keeps given-back
# blocks by powers of two and hands out the first, so one that was not rounded may be smaller than what is asked for.
_EXACT_ABOVE_MIB = 16  # more than a few pictures take, whose memory is worth keeping; less than large layers take
_ASYNC = "backend:cudaMallocAsync"


def settings(torch_version: str, environ: Mapping[str, str], platform: str = sys.platform) -> dict[str, str]:
    """The variable to set before torch is imported; none where the owner has set one, or where it has no effect."""
    release, _, build = torch_version.partition("+")
    if platform != "linux" or build.startswith(("cpu", "xpu")) or any(name in environ for name in _VARIABLES):
        return {}
    version = _numbers(release)
    told = []
    if not build.startswith("rocm"):  # AMD's allocator has none, and warns
        told.append("expandable_segments:True")
    if version >= _PINNED_SINCE:
        told += [f"{_THRESHOLD}:{_EXACT_ABOVE_MIB}", f"{_LARGEST_KEPT}:{_EXACT_ABOVE_MIB}"]
    name = _VARIABLES[0] if version >= _ONE_NAME_SINCE else _VARIABLES[1]
    return {name: ",".join(told)} if told else {}


def is_async(environ: Mapping[str, str] = os.environ) -> bool:
    """Has the owner chosen CUDA's own allocator? What torch calls reserved then means something else."""
    return _ASYNC in _told(environ)


def pinned_bytes(size: int, environ: Mapping[str, str] = os.environ) -> int:
    """Bytes of pinned memory that a tensor of so many bytes takes: a power of two, up to the threshold if there is."""
    if size == 0:
        return 0
    threshold = _threshold(environ)
    return size if threshold is not None and size > threshold else 1 << (size - 1).bit_length()


def _threshold(environ: Mapping[str, str]) -> int | None:
    for item in _told(environ).split(","):
        key, _, value = item.partition(":")
        if key == _THRESHOLD and value.isdigit():
            return int(value) << 20
    return None


def _told(environ: Mapping[str, str]) -> str:
    """What torch reads, without blanks."""
    told = next((environ[name] for name in _VARIABLES if name in environ), "")
    return told.replace(" ", "")


def _numbers(release: str) -> tuple[int, int]:
    """Major and minor version; a preview of a version counts as the one before it, for it may lack what that has."""
    major, minor, *rest = (*release.split("."), "0", "0")
    if not (major.isdigit() and minor.isdigit()):
        return 0, 0
    preview = any(not part.isdigit() for part in rest)
    return int(major), int(minor) - preview
