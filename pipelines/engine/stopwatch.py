"""How long the forwards of a module take, and how much memory, found without waiting for the device.

Knows devices and torch's events; knows neither calls nor what is learnt. The CPU computes while its caller waits: a
clock tells. A CUDA device computes while the host goes on: it notes itself when it begins and ends a forward, and what
it has noted is read at a later one.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

_ROOM_SHARE = 0.8  # of the free device memory, for what is tried: kernels want workspaces, and others load meanwhile
_PATIENCE = 256  # questions, until memory that was too little is looked at again
_MAX_UNREAD = 64  # forwards: a device that is further behind tells of some less
_MAX_MET = 4096

Learn = Callable[[int, int, float], None]
"""Told of a forward: its rows, the latent elements of each, its seconds."""
Told = Callable[[float], None]
"""Told of one forward's seconds."""


class Stopwatch:
    """Times what the host itself computes."""

    def __init__(self, learn: Learn) -> None:
        self._learn = learn

    @contextlib.contextmanager
    def time(self, rows: int, area: int, told: Told | None = None, *, allocates: bool = True) -> Iterator[None]:
        """Time the forward in the block; one that raises is not told of. ``told`` is told in place of who learns. What
        one takes that ``allocates`` nothing, as a graph's replay, says nothing of memory."""
        began_s = time.perf_counter()
        yield
        self._tell(rows, area, told, time.perf_counter() - began_s)

    def _tell(self, rows: int, area: int, told: Told | None, seconds: float) -> None:
        if told is None:
            self._learn(rows, area, seconds)
        else:
            told(seconds)

    def read(self) -> None:
        """Tell of the forwards that have ended by now."""

    def fitting(self, rows: int, area: int) -> int:
        """So many rows, or as many of them as there seems to be memory for."""
        return rows


@dataclass
class _Room:
    """How many rows of an area the memory was found to have room for."""

    rows: int = 0
    patience: int = 0


class CudaStopwatch(Stopwatch):
    """Times what a CUDA device computes. The first forward of a shape, which chooses kernels, tells of memory alone."""

    def __init__(self, learn: Learn, device: torch.device, held: Callable[[], int] = lambda: 0) -> None:
        """``held``: bytes of what torch has reserved and does not use, that are not for forwards all the same."""
        super().__init__(learn)
        self._device = device
        self._held = held
        self._unread: deque[tuple[Any, Any, int, int, Told | None]] = deque(maxlen=_MAX_UNREAD)
        self._met: set[tuple[int, int]] = set()  # rows and area
        self._element_bytes = 0.0  # that a forward takes for each latent element
        self._rooms: dict[int, _Room] = {}  # by area

    @contextlib.contextmanager
    def time(self, rows: int, area: int, told: Told | None = None, *, allocates: bool = True) -> Iterator[None]:
        self.read()
        if allocates and (rows, area) not in self._met:
            with self._watched(rows, area):
                yield
            return
        stream = torch.cuda.current_stream(self._device)
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record(stream)
        yield
        ended.record(stream)
        self._unread.append((began, ended, rows, area, told))

    @contextlib.contextmanager
    def _watched(self, rows: int, area: int) -> Iterator[None]:
        """See what memory the forward in the block takes."""
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        yield
        self._element_bytes = (torch.cuda.max_memory_allocated(self._device) - before) / (rows * area)
        if len(self._met) >= _MAX_MET:
            self._met.clear()
        self._met.add((rows, area))
        room = self._rooms.setdefault(area, _Room())
        room.rows = max(room.rows, rows)

    def read(self) -> None:
        while self._unread and self._unread[0][1].query():
            began, ended, rows, area, told = self._unread.popleft()
            self._tell(rows, area, told, began.elapsed_time(ended) / 1000)

    def fitting(self, rows: int, area: int) -> int:
        """More rows than were met have to fit by what fewer took: another model may be loading, and would find no
        room. The device is asked once for each number of rows; where there is no room, again after a while."""
        room = self._rooms.get(area) or _Room()
        if rows <= room.rows or not self._element_bytes:
            return rows
        if room.patience > 0:
            room.patience -= 1
            return room.rows
        free, _ = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device) - self._held()
        fits = int(_ROOM_SHARE * (free + cached) / (self._element_bytes * area))
        if fits < rows:
            room.patience = _PATIENCE
            self._met.clear()  # what a forward takes is looked at again, too
        if len(self._rooms) >= _MAX_MET:
            self._rooms.clear()
        self._rooms[area] = room
        room.rows = max(1, room.rows, min(rows, fits))
        return min(rows, room.rows)


def stopwatch_for(device: torch.device, learn: Learn, held: Callable[[], int] = lambda: 0) -> Stopwatch:
    """One for modules on ``device``. Of devices that are neither, the host's clock is all there is."""
    return CudaStopwatch(learn, device, held) if device.type == "cuda" else Stopwatch(learn)
