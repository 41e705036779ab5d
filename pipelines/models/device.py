"""Which device a worker draws on, in which type, and why not on another.

Knows what torch says of this machine, through one small class; knows neither models nor memory. What cannot be used is
told in a sentence: CUDA that fails has torch say "no kernel image" at the first operator, or nothing at all.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

_ARCHITECTURE = re.compile(r"(?P<kind>sm|compute)_(?P<number>\d+)(?P<only>a?)f?$")
MIN_CPU_BFLOAT16_BYTES = 1 << 30  # smaller models are quick enough, and nearer to themselves, in float32
_CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")  # as torch calls what a CPU can
_NVIDIA = (Path("/dev/nvidiactl"), Path("/dev/nvidia0"))
_AMD = Path("/dev/kfd")


class DeviceRefused(Exception):
    """The device that is set cannot be used here. The message is for the operator."""


@dataclass(frozen=True)
class Choice:
    """A device, its name, and, for the operator, why it is not the one that this machine seems to have."""

    device: torch.device
    name: str
    problem: str = ""


class Machine:
    """What torch and the system say of this machine's devices."""

    torch_version = str(torch.__version__)

    def built_for_cuda(self) -> bool:
        """Also AMD's: their torch calls its devices cuda."""
        return torch.version.cuda is not None or self.built_for_rocm()

    def built_for_rocm(self) -> bool:
        return torch.version.hip is not None

    def is_available(self, kind: str) -> bool:
        """Has torch such a device: cuda, mps or xpu?"""
        if kind == "mps":
            return torch.backends.mps.is_available()
        return bool(getattr(torch, kind).is_available())

    def has_card(self) -> bool:
        """Does the system show a card that this torch, or another build of it, is made for?"""
        if any(node.exists() for node in _NVIDIA) or shutil.which("nvidia-smi") is not None:
            return True
        return self.built_for_rocm() and _AMD.exists()

    def why_no_cuda(self) -> str:
        """torch's own reason why it cannot use CUDA."""
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            return str(error).strip().splitlines()[0]
        return "torch finds no device"

    def name(self) -> str:
        return torch.cuda.get_device_name(0)

    def capability(self) -> tuple[int, int]:
        return torch.cuda.get_device_capability(0)

    def architectures(self) -> list[str]:
        """What the installed torch has kernels for."""
        return torch.cuda.get_arch_list()

    def has_cpu_bfloat16(self) -> bool:
        """Has the CPU instructions for it? Without them it is slower than float32."""
        tell = getattr(torch.cpu, "get_capabilities", None)  # not in older torches
        return tell is not None and any(tell().get(word) is True for word in _CPU_BFLOAT16)

    def has_bfloat16(self) -> bool:
        """In hardware: torch emulates it on older cards, slowly."""
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def choose(setting: str, machine: Machine | None = None) -> Choice:
    """The device that ``auto``, ``cpu``, ``cuda``, ``mps`` or ``xpu`` stands for on this machine.

    Raises DeviceRefused for one that is named and cannot be used; ``auto`` then is the CPU, and says why.
    """
    machine = machine or Machine()
    if setting == "cpu":
        return Choice(torch.device("cpu"), "CPU")
    if setting in ("mps", "xpu"):
        if not machine.is_available(setting):
            raise DeviceRefused(f"torch {machine.torch_version} has no {setting} device here")
        return Choice(torch.device(setting), setting.upper())
    problem = cuda_problem(machine)
    if not problem:
        return Choice(torch.device("cuda"), machine.name())
    if setting == "cuda":
        raise DeviceRefused(problem)
    return Choice(torch.device("cpu"), "CPU", problem if machine.has_card() else "")


def cuda_problem(machine: Machine) -> str:
    """Why CUDA cannot be used on this machine; empty if it can."""
    if not machine.built_for_cuda():
        return f"torch {machine.torch_version} is a build without CUDA; install one with it"
    if not machine.is_available("cuda"):
        hidden = " (CUDA_VISIBLE_DEVICES is set)" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
        return f"torch {machine.torch_version} cannot use it: {machine.why_no_cuda()}{hidden}"
    if not machine.built_for_rocm() and not has_kernels(machine.capability(), machine.architectures()):
        major, minor = machine.capability()
        return (
            f"{machine.name()} has compute capability {major}.{minor}; torch {machine.torch_version} has kernels for"
            f" {', '.join(machine.architectures())}: install a build that has them for this card"
        )
    return ""


def has_kernels(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Do kernels for these architectures run on a card? Machine code does on cards of its generation that are no older,
    ``compute``, which the driver translates, on all that are no older, and what ends with a on its own alone."""
    read = [found for each in architectures if (found := _ARCHITECTURE.match(each)) is not None]
    if not read:
        return True  # a build that does not say
    for found in read:
        major, minor = divmod(int(found["number"]), 10)
        if found["only"]:
            runs = capability == (major, minor)
        elif found["kind"] == "compute":
            runs = capability >= (major, minor)
        else:
            runs = capability[0] == major and capability[1] >= minor
        if runs:
            return True
    return False


def choose_dtype(
    setting: str, device: torch.device, machine: Machine | None = None, *, stored_bytes: int = 0
) -> torch.dtype:
    """The dtype of weights that take ``stored_bytes`` on disk. ``auto`` is bfloat16 where the device has it, else
    float16; on the CPU float32, for models of real size bfloat16 where it has that: half the memory and time."""
    if setting != "auto":
        dtype = getattr(torch, setting)
        assert isinstance(dtype, torch.dtype)
        return dtype
    machine = machine or Machine()
    if device.type == "cpu":
        is_large = stored_bytes > MIN_CPU_BFLOAT16_BYTES
        return torch.bfloat16 if is_large and machine.has_cpu_bfloat16() else torch.float32
    if device.type == "mps":
        return torch.float16
    # Where there is no card, somebody asks what would be on one.
    if device.type == "cuda" and machine.is_available("cuda") and not machine.has_bfloat16():
        return torch.float16
    return torch.bfloat16
