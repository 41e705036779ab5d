"""What was joined is joined once for as long as nothing in it changes, and never longer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.engine.collate import Merger, merge


def call(fill: float, rows: int = 2) -> dict[str, Any]:
    return {"sample": torch.full((rows, 3), fill), "time": torch.tensor(7), "prompt": torch.full((rows, 5), fill)}


def test_it_merges_as_the_function_does_whatever_the_rows() -> None:
    calls = [call(1), call(2, 4), call(3, 1)]
    made, wanted = Merger().merge(calls, [2, 4, 1], {}), merge(calls, [2, 4, 1], {})
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)
    assert made["time"].tolist() == [7] * 7


def test_tensors_that_stay_are_joined_once() -> None:
    merger, calls = Merger(), [call(1), call(2)]
    first = merger.merge(calls, [2, 2], {})
    new = [{**each, "sample": each["sample"] + 1} for each in calls]
    second = merger.merge(new, [2, 2], {})
    assert second["prompt"] is first["prompt"]
    assert second["sample"][:, 0].tolist() == [2, 2, 3, 3]


@pytest.mark.parametrize("change", ["another", "fewer", "written", "result written"])
def test_what_changed_is_joined_anew(change: str) -> None:
    merger, calls = Merger(), [call(1), call(2)]
    first = merger.merge(calls, [2, 2], {})
    if change == "another":
        calls[1] = call(9)
    elif change == "fewer":
        calls.pop()
    elif change == "written":
        calls[0]["prompt"].add_(5)
    else:
        first["prompt"].zero_()
    rows = [2] * len(calls)
    made, wanted = merger.merge(calls, rows, {}), merge(calls, rows, {})
    assert torch.equal(made["prompt"], wanted["prompt"])


def test_inference_tensors_which_count_no_writes_are_always_joined_anew() -> None:
    merger = Merger()
    with torch.inference_mode():
        calls = [call(1), call(2)]
        merger.merge(calls, [2, 2], {})
        calls[0]["prompt"].add_(5)
        assert merger.merge(calls, [2, 2], {})["prompt"][:, 0].tolist() == [6, 6, 2, 2]
