"""How weights are packed into page-locked memory. What copies them runs on the fake device (tests/device)."""

from __future__ import annotations

import pytest
import torch

from pipelines.models import transfer

MIB = 1 << 20


@pytest.fixture(autouse=True)
def powers_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch before 2.13, and without the settings that the worker makes."""
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)


def test_tensors_share_blocks_instead_of_each_being_rounded_up() -> None:
    """Each of a model's thousands was a block of its own, rounded up to a power of two: 1.3 to 1.7 times its size."""
    sizes = [75 * MIB, 18 * MIB, 12 * MIB, 6144, 6144, 130] * 40
    assert transfer.host_bytes(sizes) <= 1.05 * sum(sizes)


def test_a_tensor_larger_than_a_block_has_its_own() -> None:
    assert transfer.host_bytes([300 * MIB, 1]) == 512 * MIB + 64


def test_places_do_not_overlap_and_begin_where_any_element_may() -> None:
    sizes = [0, 7, 100 * MIB, 200 * MIB, 64, 100 * MIB, 1]
    slabs = list(transfer._packed(sizes))
    assert sorted(index for slab in slabs for index, _ in slab.places) == [1, 2, 3, 4, 5, 6]
    for slab in slabs:
        ends = 0
        for index, offset in sorted(slab.places, key=lambda place: place[1]):
            assert offset >= ends
            assert offset % 64 == 0
            ends = offset + sizes[index]
        assert ends <= slab.size


def test_what_libraries_hold_inside_tensors_is_left_to_them() -> None:
    class Params4bit(torch.nn.Parameter):
        __module__ = "bitsandbytes.nn.modules"

    assert transfer.is_plain(torch.nn.Parameter(torch.ones(2)))
    assert not transfer.is_plain(Params4bit(torch.ones(2)))
    assert not transfer.is_plain(torch.ones(2, 3).T), "its bytes are in another order"
    tied = torch.nn.Module()
    tied.a = tied.b = torch.nn.Parameter(torch.ones(2))
    assert len(transfer.plain_tensors(tied)) == 1
