"""A run's next call is taken for its last only where nothing that decides who may share it has changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.engine.call import LastCall
from pipelines.engine.collate import Fingerprints, Part, Parts, group_key

ROWS = 2
PARTS: Parts = {("ids",): Part.SAME}
SAMPLE, TIME = torch.zeros(ROWS, 4, 8, 8), torch.tensor(5)


def keywords(**changed: Any) -> dict[str, Any]:
    return {"ids": torch.arange(6), "extra": {"scale": 1.0}, "flag": False, **changed}


def last(kwargs: dict[str, Any], prints: Fingerprints) -> LastCall:
    arguments = {"sample": SAMPLE, "time": TIME, **kwargs, "default": 3}
    key = group_key(arguments, ROWS, PARTS, prints)
    return LastCall(
        (SAMPLE, TIME),
        kwargs,
        arguments,
        names=("sample", "time"),
        autocast=None,
        rows=ROWS,
        area=256,
        key=key,
        parts=PARTS,
    )


def test_new_numbers_in_tensors_of_the_same_shape_are_alike() -> None:
    prints, kwargs = Fingerprints(), keywords()
    sample, time = torch.ones(ROWS, 4, 8, 8), torch.tensor(4)
    alike = last(kwargs, prints).alike((sample, time), kwargs, None, prints)
    assert alike is not None
    assert list(alike) == ["sample", "time", "ids", "extra", "flag", "default"]
    assert (alike["sample"], alike["time"], alike["default"]) == (sample, time, 3)


@pytest.mark.parametrize(
    ("args", "changed", "autocast"),
    [
        ((torch.zeros(ROWS, 4, 8, 16), TIME), {}, None),
        ((SAMPLE.double(), TIME), {}, None),
        ((SAMPLE, 5), {}, None),
        ((SAMPLE,), {}, None),
        ((SAMPLE, TIME), {"flag": 0}, None),
        ((SAMPLE, TIME), {"flag": True}, None),
        ((SAMPLE, TIME), {"extra": {"scale": 2.0}}, None),
        ((SAMPLE, TIME), {"ids": torch.arange(6)}, None),  # equal, but not known to be
        ((SAMPLE, TIME), {"more": 1}, None),
        ((SAMPLE, TIME), {}, torch.bfloat16),
    ],
)
def test_anything_else_is_not(args: tuple[Any, ...], changed: dict[str, Any], autocast: torch.dtype | None) -> None:
    prints, kwargs = Fingerprints(), keywords()
    assert last(kwargs, prints).alike(args, {**kwargs, **changed}, autocast, prints) is None


def test_what_a_pipeline_writes_into_its_own_containers_and_tensors_is_noticed() -> None:
    prints, kwargs = Fingerprints(), keywords()
    call = last(kwargs, prints)
    kwargs["extra"]["scale"] = 2.0
    assert call.alike((SAMPLE, TIME), kwargs, None, prints) is None
    kwargs["extra"]["scale"] = 1.0
    assert call.alike((SAMPLE, TIME), kwargs, None, prints) is not None
    kwargs["ids"].add_(1)
    assert call.alike((SAMPLE, TIME), kwargs, None, prints) is None
