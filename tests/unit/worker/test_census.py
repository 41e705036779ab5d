"""What the driver's library says, by a driver that is made up."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from server.worker import census


class Driver:
    """As libcuda.so.1: fills what it is pointed to, and answers with a code."""

    def __init__(self, *names: str, code: int = 0) -> None:
        self.names = names
        self.code = code

    def cuInit(self, flags: int) -> int:  # noqa: N802, the driver's own names
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = self.names[device.value].encode()
        return 0

    def cuDeviceGetUuid_v2(self, identity: Any, device: ctypes.c_int) -> int:  # noqa: N802
        identity._obj[:] = [device.value] * 16
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, device: ctypes.c_int) -> int:  # noqa: N802
        total._obj.value = 8 << 30
        return 0


def test_each_device_is_told_with_the_name_that_shows_it_alone() -> None:
    found = census.look(Driver("RTX 4090", "A100 MIG 1g.5gb"))
    assert [device["uuid"] for device in found] == [
        "GPU-00000000-0000-0000-0000-000000000000",
        "MIG-01010101-0101-0101-0101-010101010101",
    ]
    assert (found[0]["name"], found[0]["total_bytes"]) == ("RTX 4090", 8 << 30)


@pytest.mark.parametrize(("code", "says"), [(100, "no device"), (803, "cuInit of the driver failed with code 803")])
def test_a_driver_that_fails_says_how(code: int, says: str) -> None:
    with pytest.raises(census.CensusFailed, match=says):
        census.look(Driver("RTX 4090", code=code))
