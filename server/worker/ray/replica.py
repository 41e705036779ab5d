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

from server.settings import Settings
from server.telemetry import configure_logging
from server.worker import cores
from server.worker.devices import WorkerDevice
from server.worker.ray.deployment import AUTH_MODE, is_open
from server.worker.ray.host import Host

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
            # Not OMP_NUM_THREADS, which is Ray's: one thread for each CPU that the replica asks for.
            threads = cores.read().threads(share)
        kind = "cuda" if gpus else "cpu"
        device = WorkerDevice(place, kind, threads=None if gpus else threads, share=share)
        self._host = Host(chosen, device, socket.gethostname(), place)
        self._host.start()

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
