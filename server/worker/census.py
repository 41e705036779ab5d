"""The CUDA devices that a process of this environment sees, told by the driver: run as a process of its own.

    python -m server.worker.census        # [{"uuid": "GPU-…", "name": "…", "total_bytes": …}, …]

Knows the driver's library; imports no torch, makes no context, and so takes no memory of any device. The numbers are
torch's own cuda:0, cuda:1 and so on, as both obey CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER. A driver that hangs holds
up this process alone.
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from typing import Any

_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256


class CensusFailed(Exception):
    """The driver does not tell. The message is for the operator."""


def look(cuda: Any) -> list[dict[str, Any]]:
    """What the driver's library ``cuda`` tells of each device. Raises CensusFailed."""
    count = ctypes.c_int()
    _call(cuda, "cuInit", 0)
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    return [_device(cuda, number) for number in range(count.value)]


def _device(cuda: Any, number: int) -> dict[str, Any]:
    device = ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    identity = (ctypes.c_ubyte * 16)()
    total = ctypes.c_size_t()
    _call(cuda, "cuDeviceGet", ctypes.byref(device), number)
    _call(cuda, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(cuda, "cuDeviceGetUuid_v2", ctypes.byref(identity), device)  # v2: of a MIG part its own, not its card's
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(total), device)
    called = name.value.decode(errors="replace")
    kind = "MIG" if " MIG " in called else "GPU"
    return {"uuid": f"{kind}-{uuid.UUID(bytes=bytes(identity))}", "name": called, "total_bytes": total.value}


def _call(cuda: Any, name: str, *arguments: Any) -> None:
    code = getattr(cuda, name)(*arguments)
    if code == 100:  # CUDA_ERROR_NO_DEVICE: none is visible
        raise CensusFailed("the driver shows no device")
    if code:
        raise CensusFailed(f"{name} of the driver failed with code {code}")


def main() -> None:
    try:
        print(json.dumps(look(ctypes.CDLL(_LIBRARY))))
    except (OSError, AttributeError, CensusFailed) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
