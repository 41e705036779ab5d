"""The lease of a front: an actor beside it that ends with it, so that replicas hear when nobody waits any more.

Knows Ray's actors; knows neither drawings nor Ray Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ray.exceptions import RayError

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
    """The lease of a front, as those see it who watch: over when its actor is, or says nothing any more."""

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
