"""Page-locked memory of the fake device's host."""

from __future__ import annotations

import pytest
import torch

from tests.device.cards import MIB
from tests.device.fake import FakeCuda
from tests.device.pinned import NoPinnedMemory, PinnedMemory


def test_a_block_is_a_power_of_two_up_to_the_threshold() -> None:
    assert [PinnedMemory().block_of(size) for size in (0, 1, 5, 1024, 72 * MIB)] == [0, 1, 8, 1024, 128 * MIB]
    assert PinnedMemory(max_round_threshold=8 * MIB).block_of(72 * MIB) == 72 * MIB
    assert PinnedMemory(max_round_threshold=8 * MIB).block_of(5 * MIB) == 8 * MIB


def test_freed_blocks_are_kept_for_their_size_until_the_cache_is_emptied() -> None:
    memory = PinnedMemory(limit=3 * MIB)
    memory.free(memory.malloc(2 * MIB))
    assert (memory.in_use, memory.reserved, memory.peak_in_use) == (0, 2 * MIB, 2 * MIB)
    memory.malloc(MIB + 1)
    assert memory.reserved == 2 * MIB, "the same block again"
    with pytest.raises(NoPinnedMemory):
        memory.malloc(2 * MIB)
    memory.free(2 * MIB)
    memory.empty_cache()
    assert memory.reserved == 0


@pytest.mark.fake_cuda(pinned=PinnedMemory(limit=MIB))
def test_pinned_memory_that_cannot_be_had_is_the_error_that_cuda_gives(fake_cuda: FakeCuda) -> None:
    with pytest.raises(torch.AcceleratorError, match="out of memory") as caught:
        torch.ones(MIB).pin_memory()
    assert caught.value.error_code == 2  # type: ignore[attr-defined]
    torch.ones(1).to("cuda")  # the device is well


def test_tensors_are_pinned_and_let_go(fake_cuda: FakeCuda) -> None:
    tensor = torch.empty(600, dtype=torch.uint8, pin_memory=True)
    copy = torch.ones(3).to("cuda").to("cpu", non_blocking=True)
    assert tensor.is_pinned()
    assert copy.is_pinned()
    assert not torch.ones(1).is_pinned()
    assert fake_cuda.pinned.in_use == 1024 + 16
    del tensor, copy
    assert fake_cuda.pinned.in_use == 0
    assert fake_cuda.pinned.reserved == 1040
    torch.accelerator.empty_host_cache()
    assert fake_cuda.pinned.reserved == 0
