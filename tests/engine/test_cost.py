"""What a step costs, as the check at load measures it: slow models too get a bound, and a small one."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines.engine.call import Call
from pipelines.engine.shared import SharedModule, Stage
from pipelines.models import selfcheck

_AREA = 4 * 8 * 8


class Slow(torch.nn.Module):
    """Takes as long as it has rows: a device that one row fills."""

    def __init__(self, row_s: float) -> None:
        super().__init__()
        self.row_s = row_s

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        time.sleep(self.row_s * sample.shape[0])
        return sample


def measured(module: torch.nn.Module) -> SharedModule:
    shared = SharedModule("unet", module, module, Stage.DENOISE)
    call: Any = SimpleNamespace(arguments={"sample": torch.zeros(1, 4, 8, 8)}, rows=1, area=_AREA)
    selfcheck._measure(shared, cast(Call, call))
    return shared


def test_a_model_too_slow_to_measure_is_not_given_the_most_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of 0.4 s ended the measuring before there were sizes enough for a line, and had 16 rows a step."""
    monkeypatch.setattr(selfcheck, "_COST_BUDGET_S", 0.25)
    shared = measured(Slow(0.04))  # 1, 2 and 4 rows take it up
    assert shared.cost is not None
    assert shared.cost.row_s == pytest.approx(0.04, rel=0.5)
    assert shared.most_rows(_AREA) == 8
    assert shared.most_rows(_AREA * 16) < 8, "nor has a larger picture, whose step would take seconds"


def test_one_size_is_enough_to_know_that_a_row_takes_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_COST_BUDGET_S", 0.25)
    shared = measured(Slow(0.3))
    assert shared.cost is not None
    assert shared.most_rows(_AREA * 8) == 1
