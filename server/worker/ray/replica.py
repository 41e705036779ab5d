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

from server.telemetry import configure_logging
from server.worker import cores
from server.worker.devices import WorkerDevice
from server.worker.ray.deployment import AUTH_MODE, is_open, read_user_config
from server.worker.ray.host import Host
from server.worker.ray.lease import ActorLease
from server.worker.ray.scaling import JOBS


class Replica:
    """One device of the cluster."""

    def __init__(self, share: int) -> None:
        """``share``: so many replicas share this machine."""
        if is_open(os.environ):  # a machine that has come later, perhaps: its port would run what any stranger sends
            raise RuntimeError(f"{socket.gethostname()}: Ray was started here without {AUTH_MODE}=token")
        self._share = share
        self._host: Host | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take the settings of the worker over. Ray Serve calls it once before the first request, on the loop that the
        worker is to live on, and again when they have changed."""
        settings = read_user_config(user_config)
        configure_logging(settings.log_level, process="replica")
        gpus = ray.get_gpu_ids()
        place = f"cuda:{gpus[0]}" if gpus else "cpu"
        threads = settings.threads if isinstance(settings.threads, int) else None
        if not gpus and threads is None:
            # Not OMP_NUM_THREADS, which is Ray's: one thread for each CPU that the replica asks for.
            threads = cores.read().threads(self._share)
        kind = "cuda" if gpus else "cpu"
        device = WorkerDevice(place, kind, threads=None if gpus else threads, share=self._share)
        if self._host is None:
            self._host = Host(settings, device, socket.gethostname(), place)
            self._host.start()
        else:
            self._host.renew(settings, device)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """How many jobs there are, as fronts have said: Ray Serve asks, where it is to scale by them."""
        return {JOBS: self._host.jobs if self._host is not None else 0}  # it may ask before it gives the settings

    @property
    def _hosting(self) -> Host:
        if self._host is None:
            raise RuntimeError("Ray Serve gave no user_config; one without settings is {}")
        return self._host

    async def check_health(self) -> None:
        """Asked by Ray Serve every other second: what raises here three times is replaced."""
        self._hosting.check()

    async def greet(self, front: str, lease: Any, body: bytes) -> bytes:
        return self._hosting.greet()

    async def watch(self, front: str, lease: Any, body: bytes) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._hosting.watch(front, ActorLease(lease), body)) as frames:
            async for frame in frames:
                yield frame

    async def draw(self, front: str, lease: Any, body: bytes) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._hosting.draw(front, ActorLease(lease), body)) as frames:
            async for frame in frames:
                yield frame

    async def tell(self, front: str, lease: Any, body: bytes) -> None:
        await self._hosting.tell(body, front)
