"""torch's allocators of device memory, as a model: blocks, splits, segments, and what is reserved.

Knows sizes alone; knows no tensors. ``Caching`` is the default of c10/cuda/CUDACachingAllocator.cpp (segments from
cudaMalloc, best fit, split, merge), ``Expandable`` is ``expandable_segments:True`` (one address range a pool, which
grows by pages), ``Exact`` has no fragmentation. Constants as in c10/core/AllocatorConfig.h of torch 2.13.
"""

from __future__ import annotations

import abc
import bisect
from collections.abc import Callable
from typing import Any

_MIB = 1 << 20
_MIN_BLOCK = 512
_MAX_SMALL = _MIB  # a larger one comes from the pool of large blocks
_SMALL_SEGMENT, _LARGE_SEGMENT = 2 * _MIB, 20 * _MIB
_MIN_OWN_SEGMENT = 10 * _MIB  # from here on an allocation gets a segment of its own size
_ROUND_SEGMENT = 2 * _MIB


class NoRoom(Exception):
    """cudaMalloc failed, also after all cached segments were given back."""


def rounded(size: int) -> int:
    """The bytes of the block that ``size`` bytes get."""
    return max(_MIN_BLOCK, -(-size // _MIN_BLOCK) * _MIN_BLOCK)


class Allocator(abc.ABC):
    """Device memory within ``limit`` bytes. ``malloc`` gives a block that ``free`` takes back."""

    name: str

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.allocated = 0  # bytes in blocks
        self.peak_allocated = self.peak_reserved = 0
        self.ooms = 0
        self.flushes = 0  # times that the cache was given back to make room

    @property
    @abc.abstractmethod
    def reserved(self) -> int:
        """Bytes taken from the device."""

    @abc.abstractmethod
    def malloc(self, size: int) -> Any:
        """A block of at least ``size`` bytes. Raises NoRoom."""

    @abc.abstractmethod
    def free(self, block: Any) -> None:
        """Take a block back."""

    @abc.abstractmethod
    def empty_cache(self) -> None:
        """Give back to the device what no block needs."""

    def reset_peaks(self) -> None:
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def _note_allocated(self, size: int) -> None:
        self.allocated += size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def _fits(self, more: int) -> bool:
        """Whether ``more`` bytes can be reserved, if need be after the cache was given back."""
        if self.reserved + more > self.limit:
            self.empty_cache()
            self.flushes += 1
        return self.reserved + more <= self.limit

    def _no_room(self, size: int) -> NoRoom:
        self.ooms += 1
        return NoRoom(f"{size} bytes do not fit into the {self.limit - self.reserved} that are free")


class Exact(Allocator):
    """Bytes in use, rounded to 512: what an allocator without fragmentation would reserve."""

    name = "exact"

    @property
    def reserved(self) -> int:
        return self.allocated

    def malloc(self, size: int) -> int:
        size = rounded(size)
        if self.allocated + size > self.limit:
            raise self._no_room(size)
        self._note_allocated(size)
        self.peak_reserved = self.peak_allocated
        return size

    def free(self, block: int) -> None:
        self.allocated -= block

    def empty_cache(self) -> None:
        pass


class _Block:
    """A piece of a segment, between its neighbours."""

    __slots__ = ("free", "next", "prev", "segment", "size", "small", "start")

    def __init__(self, segment: int, start: int, size: int, *, small: bool) -> None:
        self.segment, self.start, self.size, self.small = segment, start, size, small
        self.free = False
        self.prev: _Block | None = None
        self.next: _Block | None = None

    def key(self) -> tuple[int, int, int]:
        return (self.size, self.segment, self.start)

    def split(self, size: int) -> _Block:
        """Keep ``size`` bytes; the rest is the new next."""
        rest = _Block(self.segment, self.start + size, self.size - size, small=self.small)
        rest.prev, rest.next = self, self.next
        if rest.next is not None:
            rest.next.prev = rest
        self.next, self.size = rest, size
        return rest


class _Pool:
    """Free blocks, smallest first; of equal ones the oldest segment's first."""

    def __init__(self) -> None:
        self._keys: list[tuple[int, int, int]] = []
        self.blocks: dict[tuple[int, int, int], _Block] = {}

    def add(self, block: _Block) -> None:
        block.free = True
        bisect.insort(self._keys, block.key())
        self.blocks[block.key()] = block

    def remove(self, block: _Block) -> None:
        block.free = False
        self._keys.pop(bisect.bisect_left(self._keys, block.key()))
        del self.blocks[block.key()]

    def best(self, size: int, accept: Callable[[_Block], bool] = lambda block: True) -> _Block | None:
        """The smallest of at least ``size`` bytes that is accepted."""
        at = bisect.bisect_left(self._keys, (size, -1, -1))
        return next((self.blocks[key] for key in self._keys[at:] if accept(self.blocks[key])), None)

    def put_back(self, block: _Block) -> _Block:
        """Merge a block with its free neighbours, and keep it."""
        for other in (block.prev, block.next):
            if other is not None and other.free:
                self.remove(other)
                first, second = (other, block) if other.start < block.start else (block, other)
                first.size += second.size
                first.next = second.next
                if first.next is not None:
                    first.next.prev = first
                block = first
        self.add(block)
        return block


class Caching(Allocator):
    """Segments of 2 MiB for small blocks and 20 MiB for larger ones; from 10 MiB on each its own, rounded to 2 MiB."""

    name = "default"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._pools = {True: _Pool(), False: _Pool()}  # of small blocks, and of the others
        self._segments: dict[int, int] = {}  # bytes of each
        self._reserved = 0
        self._made = 0

    @property
    def reserved(self) -> int:
        return self._reserved

    def malloc(self, size: int) -> _Block:
        size = rounded(size)
        small = size <= _MAX_SMALL
        pool = self._pools[small]
        block = pool.best(size)
        if block is None:
            block = self._segment(size, small=small)
        else:
            pool.remove(block)
        rest = block.size - size
        if rest >= _MIN_BLOCK if small else rest > _MAX_SMALL:
            pool.add(block.split(size))
        self._note_allocated(block.size)
        return block

    def _segment(self, size: int, *, small: bool) -> _Block:
        if small:
            take = _SMALL_SEGMENT
        elif size < _MIN_OWN_SEGMENT:
            take = _LARGE_SEGMENT
        else:
            take = -(-size // _ROUND_SEGMENT) * _ROUND_SEGMENT
        if not self._fits(take):
            raise self._no_room(take)
        self._made += 1
        self._segments[self._made] = take
        self._reserved += take
        self.peak_reserved = max(self.peak_reserved, self._reserved)
        return _Block(self._made, 0, take, small=small)

    def free(self, block: _Block) -> None:
        self.allocated -= block.size
        self._pools[block.small].put_back(block)

    def empty_cache(self) -> None:
        for pool in self._pools.values():
            for block in list(pool.blocks.values()):
                if block.prev is None and block.next is None:  # it is its whole segment
                    pool.remove(block)
                    self._reserved -= self._segments.pop(block.segment)


class Expandable(Allocator):
    """One address range for small blocks and one for the others. Free blocks merge across the whole range, whose last
    one grows; the pages of free blocks are given back when memory is short, and mapped again when used again."""

    name = "expandable"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._pools = {True: _Pool(), False: _Pool()}
        self._page = {True: _SMALL_SEGMENT, False: _LARGE_SEGMENT}
        self._mapped: dict[bool, set[int]] = {True: set(), False: set()}  # numbers of pages
        self._last: dict[bool, _Block | None] = {True: None, False: None}

    @property
    def reserved(self) -> int:
        return sum(len(pages) * self._page[small] for small, pages in self._mapped.items())

    def malloc(self, size: int) -> _Block:
        size = rounded(size)
        small = size <= _MAX_SMALL
        pool = self._pools[small]
        block = pool.best(size, lambda free: self._map(small, free.start, size, flush=False))
        if block is None:
            block = self._grow(size, small=small)
        else:
            pool.remove(block)
        if block.size - size >= _MIN_BLOCK:
            rest = block.split(size)
            if rest.next is None:
                self._last[small] = rest
            pool.add(rest)
        self._note_allocated(block.size)
        return block

    def _map(self, small: bool, start: int, size: int, *, flush: bool) -> bool:
        """Have pages under ``size`` bytes from ``start`` on. False where they do not fit; with ``flush``, not even
        after all free pages were given back."""
        page, mapped = self._page[small], self._mapped[small]
        wanted = range(start // page, -(-(start + size) // page))
        missing = sum(1 for number in wanted if number not in mapped) * page
        if missing:
            if not flush and self.reserved + missing > self.limit:
                return False
            if not self._fits(missing):
                return False
            more = sum(1 for number in wanted if number not in mapped) * page
            if more > missing and self.reserved + more > self.limit:  # a flush took pages that were wanted
                return False
            mapped.update(wanted)
            self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True

    def _grow(self, size: int, *, small: bool) -> _Block:
        last, page = self._last[small], self._page[small]
        if last is None:
            start = 0
        else:
            start = last.start if last.free else last.start + last.size
        if not self._map(small, start, size, flush=True):
            raise self._no_room(size)
        stop = -(-(start + size) // page) * page
        if last is not None and last.free:
            self._pools[small].remove(last)
            last.size = stop - start
            return last
        block = _Block(0, start, stop - start, small=small)
        block.prev = last
        if last is not None:
            last.next = block
        self._last[small] = block
        return block

    def free(self, block: _Block) -> None:
        self.allocated -= block.size
        merged = self._pools[block.small].put_back(block)
        if merged.next is None:
            self._last[block.small] = merged

    def empty_cache(self) -> None:
        for small, pool in self._pools.items():
            page = self._page[small]
            for block in pool.blocks.values():
                whole = range(-(-block.start // page), (block.start + block.size) // page)
                self._mapped[small].difference_update(whole)


ALLOCATORS: dict[str, type[Allocator]] = {kind.name: kind for kind in (Exact, Caching, Expandable)}
