"""A worker process from launch to end: its command, its socket, its environment. Knows neither messages nor models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

from server import interpreter
from server.settings import ENV_PREFIX, Settings
from server.worker.cores import OWN_THREADS
from server.worker.devices import WorkerDevice

log = logging.getLogger("darkroom.worker")

_CHECKS = "checks"  # in the data folder
# How often a thread of torch's OpenMP (libgomp) looks whether the others are there before it sleeps. Its own choice,
# 300,000, is some 10 ms: where a thread holds the core that another needs, each part of a step takes that long.
_SPIN_COUNT = "3000"
_SPIN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # either is the owner's word
_KILL_TIMEOUT_S = 60.0  # for a killed process to end


async def child(settings: Settings, device: WorkerDevice, fd: int) -> asyncio.subprocess.Process:
    """A new worker process that has this end of the socket. Raises OSError."""
    return await asyncio.create_subprocess_exec(
        *interpreter.python("server.worker.child"),
        *("--fd", str(fd)),
        *("--device", device.setting),
        *("--device-memory", settings.device_memory or ""),
        *("--checks", str(settings.data_dir.absolute() / _CHECKS)),
        *("--log-level", settings.log_level),
        *("--share", str(device.share)),
        *(("--name", device.name) if device.share > 1 else ()),
        *(("--refuse-full",) if device.refuses_full else ()),
        pass_fds=[fd],
        stdin=asyncio.subprocess.DEVNULL,
        env=environment(device),
    )


def kill(process: asyncio.subprocess.Process) -> None:
    """Kill it, unless it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            # Not its send_signal, which asks the system first how the process ended. Then asyncio, which asks too, is
            # told nothing: it writes a warning, and takes 255 for the exit code.
            os.kill(process.pid, signal.SIGKILL)


async def until_ended(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that was killed: until it has ended the driver holds its memory, and the next would find the
    device full."""
    if process.returncode is None:
        try:
            await asyncio.wait_for(process.wait(), timeout=_KILL_TIMEOUT_S)
        except TimeoutError:  # inside the driver, where no signal reaches it
            log.error("killed worker does not end", extra={"pid": process.pid})


def environment(device: WorkerDevice) -> dict[str, str]:
    """Ours, less our settings and Ray's: the child has no use for the signing key, nor for the token of a cluster. It
    sees its own device alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "RAY_"))}
    if device.visible:
        kept["CUDA_VISIBLE_DEVICES"] = device.visible
    if device.threads is not None:
        # Read as torch is imported, for every thread that computes: torch.set_num_threads would count in one alone.
        kept[OWN_THREADS] = str(device.threads)
    if not any(name in kept for name in _SPIN):
        kept[_SPIN[0]] = _SPIN_COUNT
    return interpreter.environment(kept)
