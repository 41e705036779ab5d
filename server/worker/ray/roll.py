"""Which replicas there are, between Ray Serve's router, which is told, and the front, which wants to know.

Both live in the front's process, the router on a thread of its own. Ray makes the router from its class and gives it
nothing of ours, so that they meet here: one roll a process, as Ray is connected to one cluster a process. Knows IDs and
threads; knows no Ray.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

Listener = Callable[[frozenset[str]], object]


class Roll:
    """The IDs of the replicas that requests can be sent to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replicas: frozenset[str] = frozenset()
        self._listener: Listener | None = None

    def call(self, replicas: frozenset[str]) -> None:
        """These are there now. Called by the router."""
        with self._lock:
            if replicas == self._replicas:
                return
            self._replicas = replicas
            if self._listener is not None:
                self._listener(replicas)

    def listen(self, listener: Listener | None) -> None:
        """Be told of every change, on the router's thread, and at once of how it stands; None: no more."""
        with self._lock:
            self._listener = listener
            if listener is not None:
                listener(self._replicas)


ROLL = Roll()
