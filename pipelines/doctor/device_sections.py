"""The sections that need no model: what is here, what the device does by itself, and how it is lost.

Knows torch and the device; knows neither models nor processes but those that it breaks on purpose.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import torch

from pipelines.doctor.probe import MIB, Probe
from pipelines.doctor.record import Record, Verdict
from pipelines.facts import requirements
from pipelines.models import allocator, memory
from pipelines.models import device as devices

_MATRIX = 8192  # a side, on a device; its product takes milliseconds
_SMALL_MATRIX = 256
_COPIED_BYTES = 256 * MIB
_LAUNCHES = 2000
_PINNED_BYTES = 72 * MIB  # no power of two
_LOST_TIMEOUT_S = 25.0

_ASSERT = """
import torch
try:
    torch.zeros(3, device="cuda")[torch.tensor([5], device="cuda")]
    torch.cuda.synchronize()
except Exception as error:
    print(type(error).__name__, getattr(error, "error_code", None))
try:
    torch.zeros(1, device="cuda").item()
    print("usable")
except Exception as error:
    print("lost", type(error).__name__)
"""
_PINNED = """
import torch
torch.zeros(1, device="cuda")
try:
    torch.empty(1 << 46, dtype=torch.uint8, pin_memory=True)
except BaseException as error:
    print(type(error).__name__, getattr(error, "error_code", None))
    print("usable", torch.zeros(1, device="cuda").item())
"""


def environment(probe: Probe, record: Record) -> None:
    """Versions, the card against the build of torch, and what is set."""
    record.figures(
        torch=torch.__version__,
        cuda=torch.version.cuda,
        allocator=os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or "default",
        compiler=shutil.which("gcc") or shutil.which("clang"),
        host_free_mib=memory.free_host_bytes() // MIB,
        cores=os.cpu_count(),
    )
    lacking = requirements.missing_for_compile()
    record.judge(lacking is None, lacking or "a C compiler is there for compile: true", otherwise=Verdict.LOOK)
    if not probe.is_cuda:
        record.say(Verdict.LOOK, f"the device is {probe.device}: a rehearsal, whose figures mean nothing")
        return
    free, total = torch.cuda.mem_get_info(probe.device)
    capability = torch.cuda.get_device_capability(probe.device)
    architectures = torch.cuda.get_arch_list()
    name = torch.cuda.get_device_name(probe.device)
    record.figures(
        device=name, capability=capability, architectures=architectures, free_mib=free // MIB, total_mib=total // MIB
    )
    kernels = torch.version.hip is not None or devices.has_kernels(capability, architectures)
    record.judge(kernels, f"torch has kernels for {name} (compute capability {capability[0]}.{capability[1]})")
    native = torch.version.hip is not None or capability >= (8, 0)
    record.judge(native, "bfloat16 is native (compute capability 8.0 or newer)", otherwise=Verdict.LOOK)


def bare_device(probe: Probe, record: Record) -> None:
    """Matrix products, launches, waits and copies."""
    side = _MATRIX if probe.is_cuda else _SMALL_MATRIX
    matrix = torch.full((side, side), 0.01, dtype=torch.bfloat16, device=probe.device)
    record.figures(bf16_tflops=2 * side**3 / probe.seconds(lambda: matrix @ matrix) / 1e12)
    small = torch.zeros(1, device=probe.device)
    probe.synchronise()
    started = time.perf_counter()
    for _ in range(_LAUNCHES):
        small.add_(1)
    launch_us = (time.perf_counter() - started) / _LAUNCHES * 1e6
    record.figures(launch_us=launch_us, wait_us=probe.seconds(small.cpu, 20) * 1e6)
    record.judge(launch_us < 10, f"a launch takes the host {launch_us:.1f} µs (less than 10)", otherwise=Verdict.LOOK)
    size = _COPIED_BYTES if probe.is_cuda else MIB
    there = torch.empty(size, dtype=torch.uint8, device=probe.device)
    pageable = torch.zeros(size, dtype=torch.uint8)
    record.figures(h2d_pageable_gb_s=size / probe.seconds(lambda: there.copy_(pageable)) / 1e9)
    if not probe.is_cuda:
        return
    started = time.perf_counter()
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    record.figures(page_locking_gb_s=size / (time.perf_counter() - started) / 1e9)
    h2d = size / probe.seconds(lambda: there.copy_(pinned, non_blocking=True)) / 1e9
    record.figures(
        h2d_pinned_gb_s=h2d, d2h_pinned_gb_s=size / probe.seconds(lambda: pinned.copy_(there, non_blocking=True)) / 1e9
    )
    record.judge(h2d > 5, f"pinned memory travels at {h2d:.0f} GB/s (more than 5)", otherwise=Verdict.LOOK)
    _pinned_rounding(record)


def _pinned_rounding(record: Record) -> None:
    """Does the host's allocator take what Darkroom believes that it takes?"""
    before = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    kept = torch.empty(_PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    taken = torch.cuda.host_memory_stats()["allocated_bytes.current"] - before
    believed = allocator.pinned_bytes(_PINNED_BYTES)
    record.figures(pinned_72_mib_takes_mib=taken / MIB)
    record.judge(taken <= believed, f"72 MiB of pinned memory take {taken // MIB} MiB; {believed // MIB} are counted")
    del kept


def lost(probe: Probe, record: Record) -> None:
    """In processes of their own: a device-side assert, and pinned memory that cannot be had."""
    if not probe.is_cuda:
        record.say(Verdict.LOOK, "nothing to lose: the device is no CUDA device")
        return
    said = {name: _break(code) for name, code in (("assert", _ASSERT), ("pinned", _PINNED))}
    record.figures(**said)
    record.judge(
        "AcceleratorError" in said["assert"] and "lost" in said["assert"],
        "a device-side assert is an AcceleratorError, and loses the device to its process",
    )
    record.judge("usable" in said["pinned"], "pinned memory that cannot be had leaves the device usable")


def _break(code: str) -> str:
    command = [sys.executable, "-P", "-c", code]
    try:
        done = subprocess.run(  # noqa: S603, the code above
            command, capture_output=True, text=True, timeout=_LOST_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end within {_LOST_TIMEOUT_S:.0f} s"
    return " / ".join(done.stdout.split("\n")[:2])
