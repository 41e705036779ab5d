"""What ControlNets add, beside calls to which nothing is added."""

from __future__ import annotations

from typing import Any

import torch

from pipelines.engine import residuals
from pipelines.engine.residuals import DOWN, MIDDLE


def call(number: float | None, *, rows: int = 1, side: int = 2) -> dict[str, Any]:
    if number is None:
        return {"sample": torch.zeros(rows, 1, 2, 2), DOWN: None, MIDDLE: None}
    leaf = torch.full((rows, 3, side, side), number)
    return {"sample": torch.zeros(rows, 1, 2, 2), DOWN: [leaf, leaf + 1], MIDDLE: leaf + 2}


def test_calls_without_any_are_left_as_they_are() -> None:
    calls = [call(None), call(None, rows=2)]
    assert all(one is other for one, other in zip(residuals.levelled(calls, [1, 2]), calls, strict=True))


def test_calls_of_one_form_are_left_as_they_are() -> None:
    calls = [call(1.0), call(2.0, rows=2)]
    assert all(one is other for one, other in zip(residuals.levelled(calls, [1, 2]), calls, strict=True))


def test_a_call_without_any_is_given_zeros_of_its_own_rows() -> None:
    bare, filled = residuals.levelled([call(None, rows=2), call(5.0)], [2, 1])
    assert [leaf.shape for leaf in (*bare[DOWN], bare[MIDDLE])] == [(2, 3, 2, 2)] * 3
    assert not any(leaf.any() for leaf in (*bare[DOWN], bare[MIDDLE]))
    assert [float(leaf[0, 0, 0, 0]) for leaf in (*filled[DOWN], filled[MIDDLE])] == [5.0, 6.0, 7.0]


def test_one_number_for_all_places_is_spread() -> None:
    pooled, whole, bare = residuals.levelled([call(3.0, side=1, rows=2), call(4.0), call(None)], [2, 1, 1])
    assert pooled[MIDDLE].shape == (2, 3, 2, 2)
    assert bool((pooled[MIDDLE] == 5.0).all())
    assert whole[MIDDLE].shape == bare[MIDDLE].shape == (1, 3, 2, 2)


def test_keys_do_not_tell_what_is_added() -> None:
    assert residuals.folded(call(3.0)).keys() == call(None).keys()
    assert residuals.folded(call(3.0))[DOWN] is None
    assert residuals.folded(call(3.0))[MIDDLE] is None
