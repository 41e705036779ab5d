"""The replica: what Ray Serve places on a device. It hosts the worker process, and has no torch itself.

Knows Ray's actors and contexts; what is said and drawn is the host's matter. It raises to Ray Serve alone, where it is
to be replaced: to a front a bare exception would cross with its traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.exceptions import RayError

from server.telemetry import configure_logging
from server.worker.devices import WorkerDevice
from server.worker.ray.deployment import AUTH_MODE, is_open, read_user_config
from server.worker.ray.host import Host
from server.worker.ray.scaling import JOBS

SIGN_S = 2.0
SILENT_S = 10.0


class FrontLease:
    """An actor beside a front, and of it: it ends when the front's process does."""

    async def held(self) -> None:
        """Never return."""
        await asyncio.Event().wait()

    async def alive(self) -> None:
        """Return at once."""


class ActorLease:
    """The lease of a front, as a replica sees it: over when its actor is, or says nothing any more."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def ended(self) -> None:
        held = asyncio.ensure_future(self._until_dead())
        try:
            while not held.done():
                async with asyncio.timeout(SILENT_S):
                    await self._actor.alive.remote()
                await asyncio.wait([held], timeout=SIGN_S)
        except (RayError, TimeoutError):
            return
        finally:
            held.cancel()

    async def _until_dead(self) -> None:
        """The call ends with an error the moment that the actor dies."""
        with contextlib.suppress(RayError):
            await self._actor.held.remote()


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
        if not gpus and settings.threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)  # Ray's: one thread for each CPU that the replica asks for
        kind = "cuda" if gpus else "cpu"
        device = WorkerDevice(place, kind, threads=None if gpus else settings.threads, share=self._share)
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
