"""Page-locked host memory, as at::CachingHostAllocator counts it. Knows sizes; knows no tensors and no copies."""

from __future__ import annotations

from collections import Counter


class NoPinnedMemory(Exception):
    """cudaHostAlloc failed."""


class PinnedMemory:
    """Blocks of page-locked memory within ``limit`` bytes.

    A block is the next power of two; above ``max_round_threshold`` bytes it is as large as what was asked for
    (``pinned_max_round_threshold_mb``). Freed blocks are kept for the next of their size until the cache is emptied.
    """

    def __init__(self, limit: int | None = None, max_round_threshold: int | None = None) -> None:
        self.limit = limit
        self.max_round_threshold = max_round_threshold
        self.in_use = 0  # bytes of blocks
        self.peak_in_use = 0
        self._cached: Counter[int] = Counter()  # free blocks by size

    @property
    def reserved(self) -> int:
        """Bytes taken from the host."""
        return self.in_use + sum(size * count for size, count in self._cached.items())

    def block_of(self, size: int) -> int:
        """The bytes of the block that ``size`` bytes get."""
        if size == 0 or (self.max_round_threshold is not None and size > self.max_round_threshold):
            return size
        return 1 << (size - 1).bit_length()

    def malloc(self, size: int) -> int:
        """Take a block for ``size`` bytes, and say how large it is. Raises NoPinnedMemory."""
        block = self.block_of(size)
        if self._cached[block]:
            self._cached[block] -= 1
        elif self.limit is not None and self.reserved + block > self.limit:
            raise NoPinnedMemory(f"{block} bytes more than {self.reserved} of {self.limit}")
        self.in_use += block
        self.peak_in_use = max(self.peak_in_use, self.in_use)
        return block

    def free(self, block: int) -> None:
        self.in_use -= block
        self._cached[block] += 1

    def empty_cache(self) -> None:
        self._cached.clear()
