"""The CUDA graphs of one device: their common memory, how many there may be, and who leaves when it is short.

Knows graphs by when they were last used; knows neither modules nor rows. All graphs of a device work in one pool, since
no two ever run at once: it takes what the largest needs, and what each keeps for its output. torch gives a pool back as
a whole, so where memory is short all graphs go.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch

from pipelines.engine.recording import Recorded, mend, record
from pipelines.errors import is_device_lost, is_out_of_memory

log = logging.getLogger("darkroom.graphs")

MAX_GRAPHS = 48  # of one device: each takes the host some memory, and a large one's nodes some of the device's
MAX_FAILURES = 3  # captures that failed, until none are made on this device: each may leave its pool taken
MAX_MEMORY_SHARE = 1 / 16  # of the device, for the pool
# Why graphs go that may come again.
SHORT = "memory was short"
UNUSED = "others were used since"
_ROOM_SHARE = 0.5  # of what is free, for what a capture takes


class CaptureFailed(Exception):
    """A capture failed, and the device can be used as before. ``is_short``: for want of memory."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}".strip().splitlines()[0])
        self.is_short = is_out_of_memory(error)


class Graph:
    """A graph with what it reads and writes."""

    def __init__(self, recorded: Recorded, used: int, dropped: Callable[[Graph, str], None]) -> None:
        """``dropped`` is told of the graph and why, when it goes."""
        self.output = recorded.output
        self.used = used
        self._recorded: Recorded | None = recorded
        self._dropped = weakref.WeakMethod(dropped)

    def replay(self) -> None:
        assert self._recorded is not None, "a graph that was dropped is not replayed"
        self._recorded.graph.replay()

    def drop(self, why: str) -> None:
        """Give up its memory, and tell its owner. A second time does nothing."""
        if self._recorded is None:
            return
        self._recorded.graph.reset()
        self._recorded = self.output = None
        if (tell := self._dropped()) is not None:
            tell(self, why)


class GraphPool:
    """The graphs of one device. Safe to call from any thread: one captures, others load models and want the memory.

    ``lock`` is held by whoever launches a graph, captures or drops some; also by whoever empties torch's cache, which
    is an error in the midst of a capture.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        max_graphs: int = MAX_GRAPHS,
        max_share: float = MAX_MEMORY_SHARE,
    ) -> None:
        """``max_share``: of the device's memory, for all graphs."""
        self.device = device
        self.lock = threading.RLock()
        self.problem = ""  # why no graphs are captured any more; empty: they are
        self._max_graphs = max_graphs
        self._max_share = max_share
        self._graphs: weakref.WeakSet[Graph] = weakref.WeakSet()  # their owners keep them
        self._bytes = 0
        self._clock = 0
        self._failures = 0
        self._handle: Any = None
        self._stream: Any = None

    @property
    def bytes(self) -> int:
        """Bytes of the device that its graphs hold."""
        return self._bytes if self._graphs else 0

    @property
    def held(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    @property
    def stream(self) -> Any:
        """Where graphs are captured, and what they hold has run once before."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return self._stream

    def tick(self) -> int:
        """A number larger than any before: when something was used."""
        self._clock += 1
        return self._clock

    def why_no_room(self, needed: int) -> str:
        """Why a capture that takes so many bytes of memory is not made; empty if it may be."""
        free, total = torch.cuda.mem_get_info(self.device)
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        if needed > self._max_share * total:
            return "it would take more memory than graphs may have"
        if needed > _ROOM_SHARE * (free + max(0, cached - self.bytes)):
            return SHORT
        return ""

    def capture(
        self,
        work: Callable[[], Any],
        weights: frozenset[int],
        dropped: Callable[[Graph, str], None],
    ) -> Graph:
        """A graph of what ``work`` launches. ``weights`` are storages that its owner keeps. The least recently used
        leaves where there are too many. Raises CaptureFailed, and what a device raises that can no longer be used."""
        with self.lock:
            while len(self._graphs) >= self._max_graphs:
                self.forget(min(self._graphs, key=lambda graph: graph.used), UNUSED)
            if self._handle is None or not self._graphs:
                self._handle, self._bytes = torch.cuda.graph_pool_handle(), 0
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved(self.device)
            try:
                recorded = record(work, device=self.device, pool=self._handle, stream=self.stream, weights=weights)
            except Exception as error:
                failed = CaptureFailed(error)
                self._mend(failed)
                raise failed from None
            graph = Graph(recorded, self.tick(), dropped)
            self._graphs.add(graph)
            self._bytes += max(0, torch.cuda.memory_reserved(self.device) - before)
            return graph

    def _mend(self, failed: CaptureFailed) -> None:
        """A capture failed. Its pool is not used again: what it holds of it may never be given back."""
        self._drop_all(SHORT if failed.is_short else "a capture failed")
        self._handle = None
        self._failures += not failed.is_short
        if self._failures >= MAX_FAILURES:
            self.problem = f"{self._failures} captures failed, the last with {failed}"
        try:
            mend(self.device)
        except Exception as worse:
            if is_device_lost(worse):
                raise
            self.problem = f"after one that failed none can be captured: {type(worse).__name__}: {worse}"
        if self.problem:
            log.error("no more CUDA graphs on this device", extra={"reason": self.problem})

    def drop_all(self, why: str) -> bool:
        """Give up all graphs, and their memory. True if there were any."""
        with self.lock:
            if not self._graphs:
                return False
            self._drop_all(why)
            torch.cuda.empty_cache()
            return True

    def _drop_all(self, why: str) -> None:
        for graph in list(self._graphs):
            self.forget(graph, why)
        self._bytes = 0

    def forget(self, graph: Graph, why: str) -> None:
        """Give up one graph. Its memory stays for the others, until the last has gone."""
        with self.lock:
            torch.cuda.synchronize(self.device)  # it may be running
            graph.drop(why)
            self._graphs.discard(graph)

    def make_room(self, size: int) -> None:
        """Give up all graphs if so many bytes would not fit beside them."""
        with self.lock:
            if not self._graphs:
                return
            free, _ = torch.cuda.mem_get_info(self.device)
            cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            if free + max(0, cached - self.bytes) < size:
                self.drop_all("another model needed the memory")

    def empty_cache(self) -> None:
        """Give back what torch keeps for later."""
        with self.lock:
            torch.cuda.empty_cache()
