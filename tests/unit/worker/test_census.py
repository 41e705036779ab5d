"""What the driver's library says, by a driver that is made up."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.worker import census
from server.worker.child import rocm_census


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


class Hip:
    """As torch.cuda of the build for ROCm."""

    def __init__(self, kernels: str, *architectures: str) -> None:
        self.kernels = kernels
        self.architectures = architectures

    def get_arch_list(self) -> list[str]:
        return self.kernels.split()

    def device_count(self) -> int:
        return len(self.architectures)

    def get_device_properties(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(name=f"AMD {number}", total_memory=8 << 30, gcnArchName=self.architectures[number])


@pytest.mark.parametrize(
    ("kernels", "usable"),
    [("gfx90a gfx1100", [True, True, False]), ("gfx11-generic gfx90a", [True] * 3), ("", [True] * 3)],
)
def test_amds_cards_are_told_with_whether_torch_has_kernels_for_them(kernels: str, usable: list[bool]) -> None:
    found = rocm_census.look(Hip(kernels, "gfx90a:sramecc+:xnack-", "gfx1100", "gfx1036"))
    assert [card["usable"] for card in found] == usable
    assert found[0] | {"usable": True} == {"uuid": "", "name": "AMD 0", "total_bytes": 8 << 30, "usable": True}


@pytest.mark.parametrize(
    ("line", "is_for_rocm"),
    [
        ("hip: Optional[str] = '6.4.43482-0f2d60242'", True),
        ('hip = "5.7"', True),
        ("hip: Optional[str] = None", False),
        ("rocm: Optional[str] = '6.4'", False),
    ],
)
def test_which_torch_it_is_is_told_by_its_files(line: str, is_for_rocm: bool, tmp_path: Path) -> None:
    """Every start of a server beside a processor with AMD's graphics would import torch to be told that it is for the
    CPU."""
    (tmp_path / "version.py").write_text(f"__version__ = '2.9.0'\n{line}\n")
    assert rocm_census.is_for_rocm(tmp_path) is is_for_rocm
    assert not rocm_census.is_for_rocm(tmp_path / "nowhere")
