"""What torch's allocators are told: what the installed version knows, and never against the owner."""

from __future__ import annotations

import pytest

from pipelines.models import allocator

MIB = 1 << 20
PINNED = "pinned_max_round_threshold_mb:16,pinned_max_cached_size_mb:16"
EXPANDABLE = "expandable_segments:True"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.13.0", {"PYTORCH_ALLOC_CONF": f"{EXPANDABLE},{PINNED}"}),
        ("2.13.1+cu130", {"PYTORCH_ALLOC_CONF": f"{EXPANDABLE},{PINNED}"}),
        ("3.0.0", {"PYTORCH_ALLOC_CONF": f"{EXPANDABLE},{PINNED}"}),
        ("2.13.0a0+git1234", {"PYTORCH_ALLOC_CONF": EXPANDABLE}),
        ("2.12.0", {"PYTORCH_ALLOC_CONF": EXPANDABLE}),
        ("2.11.0+cu130", {"PYTORCH_ALLOC_CONF": EXPANDABLE}),
        ("2.8.0", {"PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE}),
        ("2.13.0+rocm7.1", {"PYTORCH_ALLOC_CONF": PINNED}),
        ("2.11.0+rocm7.1", {}),
        ("2.13.0+cpu", {}),
        ("unknown", {"PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE}),
    ],
)
def test_each_key_is_set_where_the_installed_torch_knows_it(version: str, expected: dict[str, str]) -> None:
    """13.9 GiB were reserved for 4.2 in use on an H200; an unknown key ends the worker at its first allocation."""
    assert allocator.settings(version, {}, "linux") == expected


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
@pytest.mark.parametrize("value", ["backend:cudaMallocAsync", ""])
def test_what_the_owner_has_set_stays(name: str, value: str) -> None:
    assert allocator.settings("2.13.0", {name: value}, "linux") == {}


def test_other_systems_have_no_such_segments() -> None:
    assert allocator.settings("2.13.0", {}, "darwin") == {}


def test_pinned_memory_is_never_left_unrounded_and_kept() -> None:
    """torch 2.13 hands a kept block out by its power of two: an unrounded one was smaller than what was asked for."""
    told = dict(item.split(":") for item in allocator.settings("2.13.0", {}, "linux")["PYTORCH_ALLOC_CONF"].split(","))
    assert told["pinned_max_round_threshold_mb"] == told["pinned_max_cached_size_mb"]


def test_what_is_set_is_what_counts_for_pinned_memory() -> None:
    environ = allocator.settings("2.13.0", {}, "linux")
    assert allocator.pinned_bytes(72 * MIB, environ) == 72 * MIB
    assert allocator.pinned_bytes(5 * MIB, environ) == 8 * MIB
    assert allocator.pinned_bytes(0, environ) == 0
    assert allocator.pinned_bytes(72 * MIB, {}) == 128 * MIB
    assert allocator.pinned_bytes(72 * MIB, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}) == 128 * MIB


def test_cudas_own_allocator_is_told_apart() -> None:
    assert allocator.is_async({"PYTORCH_CUDA_ALLOC_CONF": "backend: cudaMallocAsync"})
    assert not allocator.is_async({"PYTORCH_ALLOC_CONF": "backend:native"})
    assert not allocator.is_async({})
