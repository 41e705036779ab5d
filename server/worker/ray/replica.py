"""The replica: what Ray Serve places on a device. It hosts the worker process, and has no torch itself.

Knows Ray's actors and contexts; what is said and drawn is the host's matter. It raises to Ray Serve alone, where it is
to be replaced: to a front a bare exception would cross with its traceback.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import ray

from server.settings import Settings
from server.telemetry import configure_logging
from server.worker.devices import WorkerDevice
from server.worker.ray.deployment import AUTH_MODE, is_open
from server.worker.ray.host import Host
from server.worker.ray.lease import ActorLease


class Replica:
    """One device of the cluster."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it, on the loop that the worker is to live on
        self, settings: dict[str, Any], threads: int | None, share: int
    ) -> None:
        """``settings``: those that matter to a worker. ``share``: so many replicas share this machine."""
        if is_open(os.environ):  # a machine that has come later, perhaps: its port would run what any stranger sends
            raise RuntimeError(f"{socket.gethostname()}: Ray was started here without {AUTH_MODE}=token")
        chosen = Settings(**settings)
        configure_logging(chosen.log_level, process="replica")
        gpus = ray.get_gpu_ids()
        place = f"cuda:{gpus[0]}" if gpus else "cpu"
        if not gpus and threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)  # Ray's: one thread for each CPU that the replica asks for
        kind = "cuda" if gpus else "cpu"
        device = WorkerDevice(place, kind, threads=None if gpus else threads, share=share)
        self._host = Host(chosen, device, socket.gethostname(), place)
        self._host.start()

    async def check_health(self) -> None:
        """Asked by Ray Serve every other second: what raises here three times is replaced."""
        self._host.check()

    async def greet(self, front: str, lease: Any, body: bytes) -> bytes:
        return self._host.greet()

    async def watch(self, front: str, lease: Any, body: bytes) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._host.watch(front, ActorLease(lease), body)) as frames:
            async for frame in frames:
                yield frame

    async def draw(self, front: str, lease: Any, body: bytes) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._host.draw(front, ActorLease(lease), body)) as frames:
            async for frame in frames:
                yield frame

    async def tell(self, front: str, lease: Any, body: bytes) -> None:
        await self._host.tell(body)
