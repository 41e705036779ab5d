"""Decoders: the threads on which pictures are decoded.

Knows principals, threads and processor time; knows nothing of picture files. A picture of fifty megapixels takes most
of a gigabyte and up to three seconds while it is decoded, so few are at a time. Each picture is a turn of its own: who
sends many waits between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from server.errors import BadImage
from server.inputs.turns import FairTurns

MAX_DECODING_S = 20.0  # processor seconds for the pictures of one request

_PLACES = 3
_PER_PRINCIPAL = _PLACES - 1  # one is always left for somebody else

T = TypeVar("T")


class Decoders:
    """Decoders that all requests of a server share."""

    def __init__(self) -> None:
        self._turns = FairTurns(_PLACES, per_principal=_PER_PRINCIPAL)
        self._threads = CapacityLimiter(_PLACES)  # never waited for: the turns are as many

    def decoding(self, principal: str) -> Decoding:
        """The decoding of one request."""
        return Decoding(principal, self._turns, self._threads)


class Decoding:
    """The decoding of one request's pictures, within MAX_DECODING_S in all."""

    def __init__(self, principal: str, turns: FairTurns, threads: CapacityLimiter) -> None:
        self._principal = principal
        self._turns = turns
        self._threads = threads
        self._spent_s = 0.0

    async def run(self, work: Callable[[], T], *, param: str) -> T:
        """What ``work`` makes on a thread, once it has a turn. Raises BadImage when the request's time is used up."""
        async with self._turns.turn(self._principal):
            if self._spent_s > MAX_DECODING_S:
                raise BadImage(
                    f"{param}: the pictures of this request take more than {MAX_DECODING_S:g} s to decode."
                    " Send fewer or smaller ones.",
                    param=param,
                )
            return await anyio.to_thread.run_sync(self._timed, work, limiter=self._threads)

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.thread_time()
        try:
            return work()
        finally:
            self._spent_s += time.thread_time() - started
