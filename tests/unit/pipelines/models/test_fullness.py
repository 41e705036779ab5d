"""A device that other programs have filled."""

from __future__ import annotations

import pytest
import torch

from pipelines.models import fullness
from pipelines.models.device import DeviceRefused

CUDA = torch.device("cuda")


def test_a_full_device_is_refused_with_what_to_do() -> None:
    with pytest.raises(DeviceRefused, match=r"it is full: 100 of 24576 MiB are free.*nvidia-smi"):
        fullness.refuse_full(CUDA, lambda device: (100 << 20, 24 << 30), patience_s=0.0)


def test_a_device_that_is_being_given_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is started again finds its own killed worker's memory still taken."""
    monkeypatch.setattr(fullness, "_LOOK_S", 0.0)
    free = iter([0, 0, 20 << 30])
    fullness.refuse_full(CUDA, lambda device: (next(free), 24 << 30))
    assert next(free, None) is None


@pytest.mark.parametrize(("kind", "free", "total"), [("cpu", 0, 0), ("cuda", 600 << 20, 24 << 30), ("cuda", 1, 2)])
def test_others_are_not_refused(kind: str, free: int, total: int) -> None:
    fullness.refuse_full(torch.device(kind), lambda device: (free, total), patience_s=0.0)


def test_no_room_for_a_context_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> tuple[int, int]:
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    reason = "CUDA error: out of memory"
    assert fullness.memory_of(CUDA) == (0, 0)
    reason = "CUDA driver initialization failed"
    with pytest.raises(RuntimeError):
        fullness.memory_of(CUDA)
