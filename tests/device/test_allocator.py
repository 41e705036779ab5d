"""The models of torch's allocators: sizes, segments, what stays reserved, and when there is no room."""

from __future__ import annotations

import random

import pytest

from tests.device.allocator import ALLOCATORS, Allocator, Caching, Exact, Expandable, NoRoom
from tests.device.cards import GIB, MIB


@pytest.fixture(params=list(ALLOCATORS))
def memory(request: pytest.FixtureRequest) -> Allocator:
    return ALLOCATORS[request.param](GIB)


def test_blocks_are_multiples_of_512_bytes(memory: Allocator) -> None:
    for size in (1, 512, 513):
        memory.malloc(size)
    assert memory.allocated == 512 + 512 + 1024


def test_what_is_freed_is_no_longer_in_use_and_the_peak_is_remembered(memory: Allocator) -> None:
    memory.free(memory.malloc(3 * MIB))
    memory.malloc(MIB)
    assert (memory.allocated, memory.peak_allocated) == (MIB, 3 * MIB)
    memory.reset_peaks()
    assert memory.peak_allocated == MIB


@pytest.mark.parametrize(
    ("size", "reserved"),
    [(512, 2), (MIB, 2), (MIB + 1, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (11 * MIB - 1, 12), (33 * MIB, 34)],
)
def test_a_segment_of_the_default_allocator(size: int, reserved: int) -> None:
    memory = Caching(GIB)
    memory.malloc(size)
    assert memory.reserved == reserved * MIB


def test_small_blocks_share_a_segment(memory: Allocator) -> None:
    blocks = [memory.malloc(256 << 10) for _ in range(8)]
    if not isinstance(memory, Exact):
        assert memory.reserved == 2 * MIB
    for block in blocks:
        memory.free(block)
    memory.empty_cache()
    assert memory.reserved == 0


def test_a_free_segment_is_used_again_and_its_rest_is_split_off() -> None:
    memory = Caching(GIB)
    memory.free(memory.malloc(64 * MIB))
    memory.malloc(40 * MIB)
    memory.malloc(24 * MIB)
    assert memory.reserved == 64 * MIB


def test_what_outgrows_a_segment_needs_a_new_one_by_default_and_grows_the_range_where_it_is_expandable() -> None:
    """What a batch that grows row by row does: the reason for expandable_segments."""
    default, expandable = Caching(GIB), Expandable(GIB)
    for memory in (default, expandable):
        for rows in range(1, 6):
            memory.free(memory.malloc(rows * 20 * MIB))
    assert default.reserved == (20 + 40 + 60 + 80 + 100) * MIB
    assert expandable.reserved == 100 * MIB


def test_a_block_in_use_keeps_its_segment_when_the_cache_is_emptied() -> None:
    memory = Caching(GIB)
    first = memory.malloc(30 * MIB)
    memory.free(first)
    memory.malloc(10 * MIB)
    memory.empty_cache()
    assert memory.reserved == 30 * MIB, "the segment is held as a whole"


def test_the_pages_of_free_blocks_are_given_back_between_blocks_in_use() -> None:
    memory = Expandable(GIB)
    blocks = [memory.malloc(40 * MIB) for _ in range(3)]
    memory.free(blocks[1])
    memory.empty_cache()
    assert memory.reserved == 80 * MIB
    memory.malloc(40 * MIB)
    assert memory.reserved == 120 * MIB, "mapped again, in the same place"


def test_the_cache_is_given_back_before_there_is_no_room() -> None:
    memory = Caching(100 * MIB)
    memory.free(memory.malloc(60 * MIB))
    memory.malloc(80 * MIB)
    assert (memory.flushes, memory.ooms, memory.reserved) == (1, 0, 80 * MIB)


def test_no_room(memory: Allocator) -> None:
    memory.malloc(GIB - 64 * MIB)
    with pytest.raises(NoRoom):
        memory.malloc(65 * MIB)
    assert memory.ooms == 1
    memory.malloc(32 * MIB)


def test_random_work_neither_loses_nor_invents_memory(memory: Allocator) -> None:
    dice = random.Random(0)
    held: list[tuple[int, object]] = []
    for _ in range(4000):
        if held and dice.random() < 0.5:
            memory.free(held.pop(dice.randrange(len(held)))[1])
        else:
            size = dice.choice((300, 70_000, 900_000, 3 * MIB, 17 * MIB, 60 * MIB))
            try:
                held.append((size, memory.malloc(size)))
            except NoRoom:
                memory.free(held.pop()[1])
        assert sum(size for size, _ in held) <= memory.allocated <= memory.reserved <= GIB
    for _, block in held:
        memory.free(block)
    memory.empty_cache()
    assert (memory.allocated, memory.reserved) == (0, 0)
