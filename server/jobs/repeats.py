"""Repeats: an equal request joins the first while that goes on, and is answered like it afterwards if it has a key.

Knows fingerprints, Idempotency-Keys and bytes; knows neither HTTP nor pictures. Clients send a request again when its
answer is slow to come, or lost; drawing it twice would only make the next answer slower.

What still goes on may be an equal request that wants a picture of its own: the caller says whether it may be joined.
A key says which requests are repeats, so two different keys are never joined, whatever they ask for. Failures are not
kept: a repeat tries again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.errors import Busy, IdempotencyMismatch
from server.jobs.budget import Budget, Hold
from server.jobs.work import Work

KEEP_S = 600.0  # after the end
_MAX_BYTES = 64 * 1024 * 1024  # of kept outcomes
_MIN_BYTES = 4096  # what an outcome without any bytes counts
_OURSELVES = "kept for repeats"  # no key's name has a space

T = TypeVar("T")


@dataclass(frozen=True)
class Repeatable:
    """What two requests have in common if one repeats the other."""

    principal: str
    fingerprint: bytes  # of everything that was asked for
    key: str = ""  # the Idempotency-Key; empty: none was sent


@dataclass
class _Kept(Generic[T]):
    fingerprint: bytes
    work: Work[T]
    size: int = 0  # bytes, once it has ended
    ended_s: float = 0.0  # monotonic; 0 while it goes on


class Repeats(Generic[T]):
    """The work that repeats may join or be answered with. All methods run on the event loop's thread.

    What is kept is held of the ``budget``, and is the first to go where that has no room.
    """

    def __init__(
        self,
        size_of: Callable[[T], int],
        *,
        max_bytes: int = _MAX_BYTES,
        keep_s: float = KEEP_S,
        budget: Budget | None = None,
    ) -> None:
        self._size_of = size_of
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        budget = budget or Budget(max_bytes)
        budget.reclaim = self._give_back
        self._hold = Hold(budget, _OURSELVES)
        self._going_on: dict[Repeatable, list[Work[T]]] = {}  # in the order they came
        self._kept: dict[tuple[str, str], _Kept[T]] = {}  # by principal and key; those that have ended in order

    def find(self, repeatable: Repeatable, joinable: Callable[[Work[T]], bool] = lambda work: True) -> Work[T] | None:
        """The work that a request repeats; what still goes on must be ``joinable``. Raises IdempotencyMismatch."""
        self._forget_old()
        if repeatable.key:
            kept = self._kept.get((repeatable.principal, repeatable.key))
            if kept is not None and kept.fingerprint != repeatable.fingerprint:
                raise IdempotencyMismatch(
                    "This Idempotency-Key was sent with another request; a new request needs a new key."
                )
            if kept is not None and kept.ended_s:
                return kept.work
        return next((work for work in self._going_on.get(repeatable, ()) if work.wanted and joinable(work)), None)

    @property
    def going_on(self) -> list[Work[T]]:
        """The work that has not ended."""
        return [work for same in self._going_on.values() for work in same]

    def add(self, repeatable: Repeatable, work: Work[T]) -> None:
        """From now on, repeats of this request find ``work``."""
        self._going_on.setdefault(repeatable, []).append(work)
        if repeatable.key:
            self._kept[repeatable.principal, repeatable.key] = _Kept(repeatable.fingerprint, work)
        work.when_done(lambda: self._ended(repeatable, work))

    def _ended(self, repeatable: Repeatable, work: Work[T]) -> None:
        same = self._going_on[repeatable]
        same.remove(work)
        if not same:
            del self._going_on[repeatable]
        place = (repeatable.principal, repeatable.key)
        kept = self._kept.get(place)
        if kept is None or kept.work is not work:
            return
        del self._kept[place]
        if not work.succeeded:
            return
        kept.size = max(_MIN_BYTES, self._size_of(work.result()))
        if kept.size > self._max_bytes:
            return  # dropping others would not make room for it
        self._give_back(self._hold.size + kept.size - self._max_bytes)
        try:
            self._hold.take(kept.size)
        except Busy:
            return
        kept.ended_s = time.monotonic()
        self._kept[place] = kept  # behind those that ended before

    def _give_back(self, missing: int) -> None:
        """Forget the oldest outcomes until so many bytes are free, or none is left."""
        wanted = self._hold.size - missing
        for place in [place for place, kept in self._kept.items() if kept.ended_s]:
            if self._hold.size <= wanted:
                break
            self._drop(place)

    def _forget_old(self) -> None:
        oldest_s = time.monotonic() - self._keep_s
        for place in [place for place, kept in self._kept.items() if 0 < kept.ended_s < oldest_s]:
            self._drop(place)

    def _drop(self, place: tuple[str, str]) -> None:
        self._hold.give(self._kept.pop(place).size)
