"""Is a device full before anything of ours is on it? Other programs may hold all of its memory.

Knows torch's figures and patience; knows neither models nor settings.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pipelines.errors import is_out_of_memory
from pipelines.models.device import DeviceRefused

MIN_FREE_BYTES = 512 << 20
_PATIENCE_S = 10.0  # a process that was killed holds its memory until the driver has ended it
_LOOK_S = 0.5


def memory_of(device: torch.device) -> tuple[int, int]:
    """Bytes that are free and that there are; none free where there is no room even for a context."""
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 0, 0
    return int(free), int(total)


def refuse_full(
    device: torch.device,
    measure: Callable[[torch.device], tuple[int, int]] = memory_of,
    *,
    patience_s: float = _PATIENCE_S,
) -> None:
    """Raise DeviceRefused for a CUDA device that others have filled, and that stays so for a while."""
    if device.type != "cuda":
        return
    deadline_s = time.monotonic() + patience_s
    while True:
        free, total = measure(device)
        if free >= min(MIN_FREE_BYTES, total // 2 or MIN_FREE_BYTES):
            return
        if time.monotonic() >= deadline_s:
            raise DeviceRefused(
                f"it is full: {free >> 20} of {total >> 20} MiB are free, and a model needs {MIN_FREE_BYTES >> 20} at"
                " least; end what fills it (`nvidia-smi` shows it), or leave this device out"
            )
        time.sleep(_LOOK_S)
