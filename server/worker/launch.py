"""A worker process from launch to end: its command, its socket, its environment. Knows neither messages nor models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

from server import interpreter
from server.settings import ENV_PREFIX, Settings
from server.worker.devices import WorkerDevice

log = logging.getLogger("darkroom.worker")

_CHECKS = "checks"  # in the data folder
_KILL_TIMEOUT_S = 60.0  # for a killed process to end


async def child(settings: Settings, device: WorkerDevice, fd: int) -> asyncio.subprocess.Process:
    """A new worker process that has this end of the socket. Raises OSError."""
    return await asyncio.create_subprocess_exec(
        *interpreter.python("server.worker.child"),
        *("--fd", str(fd)),
        *arguments(settings, device),
        pass_fds=[fd],
        stdin=asyncio.subprocess.DEVNULL,
        env=_environment(device),
    )


def arguments(settings: Settings, device: WorkerDevice) -> tuple[str, ...]:
    """What a worker process is told as it starts."""
    return (
        *("--device", device.setting),
        *("--device-memory", settings.device_memory or ""),
        *("--checks", str(settings.data_dir.absolute() / _CHECKS)),
        *("--log-level", settings.log_level),
        *("--share", str(device.share)),
        *(("--name", device.name) if device.share > 1 else ()),
        *(("--refuse-full",) if device.refuses_full else ()),
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


def _environment(device: WorkerDevice) -> dict[str, str]:
    """Ours, less our settings and Ray's: the child has no use for the signing key, nor for the token of a cluster. It
    sees its own device alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "RAY_"))}
    if device.visible:
        kept.pop("CUDA_VISIBLE_DEVICES", None)  # AMD's runtime reads it, too
        kept[device.visible_by] = device.visible
    if device.threads is not None:
        kept["OMP_NUM_THREADS"] = str(device.threads)  # read as torch is imported, by all that computes
    return interpreter.environment(kept)
