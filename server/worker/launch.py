"""A worker process from launch to end: its command, its socket, its environment. Knows neither messages nor models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from typing import Protocol

from server import interpreter
from server.settings import ENV_PREFIX, Settings
from server.worker.cores import OWN_THREADS
from server.worker.devices import WorkerDevice

log = logging.getLogger("darkroom.worker")

_CHECKS = "checks"  # in the data folder
# How often a thread of torch's OpenMP (libgomp) looks whether the others are there before it sleeps. Its own choice,
# 300,000, is some 10 ms: where a thread holds the core that another needs, each part of a step takes that long. With
# 3,000 a step took a tenth longer where none does (bench/spin.py).
_SPIN_COUNT = "5000"
_SPIN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # either is the owner's word
_KILL_TIMEOUT_S = 60.0  # for a killed process to end


class Process(Protocol):
    """What is asked of a worker process, whoever started it."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...


async def child(settings: Settings, device: WorkerDevice, fd: int) -> Process:
    """A new worker process that has this end of the socket. Raises OSError."""
    return await asyncio.create_subprocess_exec(
        *_command(settings, device, fd),
        pass_fds=[fd],
        stdin=asyncio.subprocess.DEVNULL,
        env=environment(device),
    )


async def connected(settings: Settings, device: WorkerDevice) -> tuple[Process, socket.socket]:
    """A new worker process, and our end of its socket. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs, contextlib.ExitStack() as until_started:
        until_started.callback(ours.close)
        process = await child(settings, device, theirs.fileno())
        until_started.pop_all()
    return process, ours


class EarlyChild:
    """A worker process that was started before there was an event loop, and our end of its socket. It imports torch
    while the front imports what it needs itself."""

    def __init__(self, settings: Settings, device: WorkerDevice) -> None:
        """Raises OSError."""
        self.is_used = False
        self._socket, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as until_started:
            until_started.callback(self._socket.close)
            self._popen = subprocess.Popen(  # noqa: S603, our own module
                _command(settings, device, theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment(device),
            )
            until_started.pop_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()

        def tell(code: int) -> None:
            if not ended.done():
                ended.set_result(code)

        def watch() -> None:
            code = self._popen.wait()
            with contextlib.suppress(RuntimeError):  # the loop has ended before it
                loop.call_soon_threadsafe(tell, code)

        threading.Thread(target=watch, name="worker-wait", daemon=True).start()
        return await ended

    def use(self) -> socket.socket:
        """Our end of its socket, for a member: it is to end the process, too."""
        self.is_used = True
        return self._socket

    def close(self) -> None:
        """End it: nobody is going to use it."""
        self._socket.close()
        kill(self)
        self._popen.wait(_KILL_TIMEOUT_S)


class Early:
    """The worker processes of a server that is about to start, by device."""

    def __init__(self, settings: Settings, devices: tuple[WorkerDevice, ...]) -> None:
        """Starts one for each device. One that cannot be started is started again later, and the log says why not."""
        self.devices = devices
        self._children: dict[WorkerDevice, EarlyChild] = {}
        for device in devices:
            with contextlib.suppress(OSError):
                self._children[device] = EarlyChild(settings, device)

    def take(self, device: WorkerDevice) -> EarlyChild | None:
        """The process of this device, unless it is used already."""
        found = self._children.get(device)
        return None if found is None or found.is_used else found

    def close(self) -> None:
        """End those that nobody uses."""
        for each in self._children.values():
            if not each.is_used:
                each.close()


def _command(settings: Settings, device: WorkerDevice, fd: int) -> list[str]:
    return [
        *interpreter.python("server.worker.child"),
        *("--fd", str(fd)),
        *arguments(settings, device),
    ]


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


def kill(process: Process) -> None:
    """Kill it, unless it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            # Not its send_signal, which asks the system first how the process ended. Then asyncio, which asks too, is
            # told nothing: it writes a warning, and takes 255 for the exit code.
            os.kill(process.pid, signal.SIGKILL)


async def until_ended(process: Process) -> None:
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
        kept.pop("CUDA_VISIBLE_DEVICES", None)  # AMD's runtime reads it, too
        kept[device.visible_by] = device.visible
    if device.threads is not None:
        # Read as torch is imported, for every thread that computes: torch.set_num_threads would count in one alone.
        kept[OWN_THREADS] = str(device.threads)
    if not any(name in kept for name in _SPIN):
        kept[_SPIN[0]] = _SPIN_COUNT
    return interpreter.environment(kept)
