"""How much memory there is: of a device at each load, of a host up to where its container ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.models import memory

GIB = 1 << 30
CUDA = torch.device("cuda")


def machine(root: Path, *, available: int, group: str = "/") -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n0::{group}\n")
    return root


def limit(root: Path, group: str, *, most: int | str, used: int, files: int = 0) -> None:
    folder = root / "sys/fs/cgroup" / group.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nactive_file {files}\ninactive_file 0\n")


def test_a_container_ends_where_its_limit_is(tmp_path: Path) -> None:
    """A container of 8 GiB on a machine of 64 was given half of the machine for models, and was ended by the kernel."""
    root = machine(tmp_path, available=60 * GIB)
    assert memory.free_host_bytes(root) == 60 * GIB
    limit(root, "/", most=8 * GIB, used=3 * GIB)
    assert memory.free_host_bytes(root) == 5 * GIB


def test_weights_that_were_read_do_not_fill_a_container(tmp_path: Path) -> None:
    """The kernel counts what it keeps of files, and gives it back."""
    root = machine(tmp_path, available=60 * GIB)
    limit(root, "/", most=8 * GIB, used=8 * GIB, files=6 * GIB)
    assert memory.free_host_bytes(root) == 6 * GIB


def test_the_narrowest_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, available=60 * GIB, group="/system.slice/darkroom.service")
    limit(root, "/system.slice/darkroom.service", most="max", used=1 * GIB)
    limit(root, "/system.slice", most=10 * GIB, used=4 * GIB)
    assert memory.free_host_bytes(root) == 6 * GIB
    limit(root, "/system.slice/darkroom.service", most=2 * GIB, used=3 * GIB)
    assert memory.free_host_bytes(root) == 0


def test_a_host_without_such_files_is_no_failure(tmp_path: Path) -> None:
    """macOS has no /proc: the worker ended as if the front had gone, was started again, and nothing said why."""
    assert memory.free_host_bytes(tmp_path) > 0


class Card:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, free: int, reserved: int = 0, allocated: int = 0) -> None:
        self.free, self.reserved, self.allocated = free, reserved, allocated
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.free, 24 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.allocated)
        monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)


def test_a_devices_budget_is_what_is_free_and_what_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was what was free at start, for ever: little, where a killed worker's memory was still held."""
    card = Card(monkeypatch, free=1 * GIB)
    assert memory.device_budget(CUDA, 0) == 1 * GIB
    card.free = 23 * GIB  # the other has ended
    assert memory.device_budget(CUDA, 0) == 23 * GIB
    card.free, card.reserved, card.allocated = 9 * GIB, 14 * GIB, 12 * GIB
    assert memory.device_budget(CUDA, 12 * GIB) == 23 * GIB


def test_activations_take_no_room_from_models_but_what_is_lost_does(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=4 * GIB, reserved=16 * GIB, allocated=10 * GIB)
    assert memory.device_budget(CUDA, 6 * GIB) == 20 * GIB, "what a step takes is in the working share"
    card.allocated = 14 * GIB
    assert memory.device_budget(CUDA, 6 * GIB) == 17 * GIB


def test_cudas_own_pool_is_not_what_torch_calls_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=9 * GIB, reserved=14 * GIB, allocated=12 * GIB)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync")
    assert memory.device_budget(CUDA, 12 * GIB) == 21 * GIB


def test_the_budget_at_start_leaves_half_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=23 * GIB)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 60 * GIB)
    assert memory.measure_budget(CUDA) == (23 * GIB, 30 * GIB)
    assert memory.measure_budget(torch.device("cpu")) == (60 * GIB, 0)
