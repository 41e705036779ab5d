"""The queue: who may come in, and whose turn it is.

Knows permits, principals, lanes and time; knows neither HTTP, nor models, nor workers. All of it runs on the event
loop's thread. A lane is the devices that a job may go to: a job whose lane is full lets those of other lanes pass.

A permit is taken before any work and given back exactly once. It first waits for its turn: turns go round the
principals, and within one principal in order of arrival, so that nobody's burst holds up everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator

from server.errors import Draining, KeyLimit, QueueFull, QuotaExceeded

_FIRST_GUESS_S = 2.0  # until a job has been measured
_SMOOTHING = 0.2  # of the moving average: about the last ten jobs count
_MAX_RETRY_AFTER_S = 120.0  # clients obey Retry-After up to this
_NEVER_S = 86_400.0  # said to a key that may have no jobs: until somebody changes that


Lane = tuple[str, ...]  # names of devices; empty: any


class JobQueue:
    """``size`` permits in all, ``slots`` turns at a time, ``per_key`` permits a principal (0: no such limit)."""

    def __init__(self, size: int, *, slots: int | Callable[[Lane], int], per_key: int = 0) -> None:
        """``slots`` may be a function that tells how many there are now of a lane; ``grant`` is then to be called where
        there may be more."""
        self._size = size
        self._slots_of: Callable[[Lane], int] = slots if callable(slots) else lambda lane: slots
        self._per_key = per_key
        self._held: dict[str, int] = {}  # permits by principal
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._lanes: dict[asyncio.Future[None], Lane] = {}  # of every ticket
        self._running_in: Counter[Lane] = Counter()
        self._tickets: dict[str, tuple[str, asyncio.Future[None]]] = {}  # by name: principal, place in its line
        self._running = 0
        self._job_s = _FIRST_GUESS_S
        self._draining_since_s: float | None = None  # monotonic
        self.on_free: Callable[[], None] = lambda: None  # told of every permit that is given back
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def _slots(self) -> int:
        return self._slots_of(())

    @property
    def held(self) -> int:
        """Permits in use."""
        return sum(self._held.values())

    @property
    def running(self) -> int:
        return self._running

    @property
    def queued(self) -> int:
        return sum(len(line) for line in self._waiting.values())

    @property
    def typical_s(self) -> float:
        """How long jobs have lately taken, from their turn on."""
        return self._job_s

    def place(self, name: str) -> int | None:
        """How many turns until the one that waits under ``name`` has its own, 1 being the next; None: it has it."""
        if name not in self._tickets:
            return None
        principal, ticket = self._tickets[name]
        line = self._waiting.get(principal, deque())
        if ticket not in line:
            return None
        round_ = line.index(ticket)
        before = round_
        mine = False
        for other, tickets in self._waiting.items():
            if other == principal:
                mine = True
            else:  # each round passes here once: earlier in this very round than we, if it stands before us
                before += min(len(tickets), round_ if mine else round_ + 1)
        return before + 1

    def wait_s(self, place: int) -> float:
        """How long until that place has its turn, as jobs have lately gone."""
        return self._job_s * place / self._slots

    def retry_after_s(self) -> float:
        """When a place may be free, from how long jobs have lately taken."""
        return min(_MAX_RETRY_AFTER_S, max(1.0, self._job_s * (self.queued + 1) / self._slots))

    @contextlib.contextmanager
    def permit(self, principal: str, most: int | None = None) -> Iterator[None]:
        """Hold a place in the queue. Raises QueueFull, KeyLimit or Draining at once; never waits.

        ``most`` is this principal's own limit, in place of ``per_key``; 0 is none at all. Raises QuotaExceeded for it.
        """
        if self.draining:
            raise Draining("The server is shutting down.", retry_after_s=5)
        if self.held >= self._size:
            raise QueueFull("The queue is full.", retry_after_s=self.retry_after_s())
        require_any(most)
        limit = most or self._per_key
        if limit and self._held.get(principal, 0) >= limit:
            raise KeyLimit(
                f"This key has {limit} jobs here already, its limit.",
                retry_after_s=self.retry_after_s(),
            )
        self._held[principal] = self._held.get(principal, 0) + 1
        self._empty.clear()
        try:
            yield
        finally:
            self._held[principal] -= 1
            if not self._held[principal]:
                del self._held[principal]
            if not self._held:
                self._empty.set()
            self.on_free()

    def has_permit(self, principal: str, most: int | None = None) -> bool:
        """Would ``permit`` grant one now?"""
        limit = most if most is not None else self._per_key or self._size
        return not self.draining and self.held < self._size and self._held.get(principal, 0) < limit

    @contextlib.asynccontextmanager
    async def turn(self, principal: str, name: str = "", lane: Lane = ()) -> AsyncIterator[None]:
        """Wait for a turn, then hold one of the slots of ``lane``. Raises Draining if the server shuts down first.

        ``place`` tells by ``name`` how far the waiting has come.
        """
        loop = asyncio.get_running_loop()
        await self._wait(principal, name, lane)
        started = loop.time()
        try:
            yield
            self._job_s += _SMOOTHING * (loop.time() - started - self._job_s)
        finally:
            self._running -= 1
            self._running_in[lane] -= 1
            self.grant()

    @property
    def draining(self) -> bool:
        return self._draining_since_s is not None

    @property
    def drained_s(self) -> float:
        """For how long it has been draining."""
        return 0.0 if self._draining_since_s is None else time.monotonic() - self._draining_since_s

    def drain(self) -> None:
        """Let running jobs finish; refuse those that wait and those to come."""
        if self._draining_since_s is None:
            self._draining_since_s = time.monotonic()
        for line in self._waiting.values():
            for ticket in line:
                if not ticket.done():
                    ticket.set_exception(Draining("The server is shutting down.", retry_after_s=5))
        self._waiting.clear()

    async def emptied(self) -> None:
        """Returns once no permit is held."""
        await self._empty.wait()

    async def _wait(self, principal: str, name: str, lane: Lane) -> None:
        if self.draining:
            raise Draining("The server is shutting down.", retry_after_s=5)
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(principal, deque()).append(ticket)
        self._lanes[ticket] = lane
        if name:
            self._tickets[name] = principal, ticket
        self.grant()
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                # The turn came in the same moment as the cancellation: pass it on.
                self._running -= 1
                self._running_in[lane] -= 1
                self.grant()
            else:
                self._forget(principal, ticket)
            raise
        finally:
            self._tickets.pop(name, None)
            del self._lanes[ticket]

    def _forget(self, principal: str, ticket: asyncio.Future[None]) -> None:
        line = self._waiting.get(principal)
        if line is not None and ticket in line:
            line.remove(ticket)
            if not line:
                del self._waiting[principal]

    def grant(self) -> None:
        """Give free slots to the principals in turn."""
        open_: dict[Lane, bool] = {}
        while self._running < self._slots and (found := self._next(open_)) is not None:
            principal, ticket = found
            line = self._waiting.pop(principal)
            line.remove(ticket)
            if line:
                self._waiting[principal] = line  # to the end of the round
            if not ticket.done():
                lane = self._lanes[ticket]
                self._running += 1
                self._running_in[lane] += 1
                open_.pop(lane, None)
                ticket.set_result(None)

    def _next(self, open_: dict[Lane, bool]) -> tuple[str, asyncio.Future[None]] | None:
        """The first in the round whose lane has a slot; ``open_`` keeps which lanes have one."""
        for principal, line in self._waiting.items():
            for ticket in line:
                lane = self._lanes[ticket]
                if lane not in open_:
                    open_[lane] = not lane or self._running_in[lane] < self._slots_of(lane)
                if open_[lane]:
                    return principal, ticket
        return None


def require_any(most: int | None) -> None:
    """Raise QuotaExceeded where a key may have no jobs at all."""
    if most == 0:
        raise QuotaExceeded("This key may have no jobs here.", retry_after_s=_NEVER_S)
