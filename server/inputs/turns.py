"""Turns: who may use one of a few places next.

Knows principals and places; knows nothing of the work. Turns go round the principals that wait, and within one
principal in order of arrival. No principal holds all the places, so that another one's first turn comes at once. All of
it runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator


class FairTurns:
    """``places`` turns at a time, of which one principal holds at most ``per_principal``."""

    def __init__(self, places: int, *, per_principal: int) -> None:
        self._free = places
        self._per_principal = per_principal
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, principal: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(principal, deque()).append(ticket)
        self._grant()
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():
                self._give_back(principal)  # the turn came in the same moment as the cancellation
            else:
                self._forget(principal, ticket)
            raise
        try:
            yield
        finally:
            self._give_back(principal)

    def _give_back(self, principal: str) -> None:
        self._free += 1
        self._held[principal] -= 1
        if not self._held[principal]:
            del self._held[principal]
        self._grant()

    def _forget(self, principal: str, ticket: asyncio.Future[None]) -> None:
        line = self._waiting.get(principal)
        if line is not None and ticket in line:
            line.remove(ticket)
            if not line:
                del self._waiting[principal]

    def _grant(self) -> None:
        """Give free places to the principals that may have one, in turn."""
        while self._free:
            principal = next((name for name in self._waiting if self._held[name] < self._per_principal), None)
            if principal is None:
                return
            line = self._waiting.pop(principal)
            ticket = line.popleft()
            if line:
                self._waiting[principal] = line  # to the end of the round
            if not ticket.done():
                self._free -= 1
                self._held[principal] += 1
                ticket.set_result(None)
