"""A call's arguments as a tree: the shape that a graph is made for, and the same tree with other tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.engine.collate import Part
from pipelines.engine.trees import Untold, equal, joined_parts, leaves, mapped, rebuilt, shape


class Output(dict[str, Any]):
    """As diffusers' outputs: made of keyword arguments."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)


def call(rows: int) -> dict[str, Any]:
    return {
        "sample": torch.arange(rows * 2.0).reshape(rows, 2),
        "timestep": torch.arange(float(rows)),
        "ids": torch.ones(7, 3),
        "more": {"text": torch.zeros(rows, 5), "scale": 1.5, "none": None},
        "each": [torch.zeros(row + 1) for row in range(rows)],
        "residuals": (torch.zeros(rows, 4), torch.zeros(rows, 4)),
    }


PARTS = {
    ("sample",): Part.ROW,
    ("timestep",): Part.SAME,  # a number, for the trace
    ("ids",): Part.SAME,
    ("each",): Part.EACH,
    ("residuals", 0): Part.ROW,
    ("residuals", 1): Part.ROW,
}


def test_a_number_for_all_rows_is_one_a_row_once_calls_were_put_together() -> None:
    one = {**call(1), "timestep": torch.zeros(())}
    parts = joined_parts(one, PARTS)
    assert parts["timestep",] is Part.ROW
    assert parts["ids",] is Part.SAME
    assert [leaf.has_rows for leaf in leaves({"timestep": torch.zeros(3)}, 3, 4, parts)] == [True]


def test_calls_of_fewer_rows_have_the_shape_of_the_bucket() -> None:
    parts = joined_parts({**call(1), "timestep": torch.zeros(())}, PARTS)
    # Each row's own tensor is as long as it is: the last is the one that is filled up with.
    three = {**call(4), "each": [*call(3)["each"], torch.zeros(3)]}
    assert shape(call(3), 3, 4, parts) == shape(three, 4, 4, parts)
    assert shape(call(3), 3, 4, parts) != shape(call(4), 4, 4, parts)
    assert shape(call(3), 3, 4, parts) != shape({**call(3), "more": {"scale": 2.0}}, 3, 4, parts)
    assert shape({"x": True}, 1, 1, {}) != shape({"x": 1}, 1, 1, {})
    assert shape({"x": torch.zeros(1)}, 1, 1, {}) != shape({"x": torch.zeros(1, dtype=torch.int64)}, 1, 1, {})


def test_what_is_neither_a_tensor_nor_plain_has_no_shape() -> None:
    with pytest.raises(Untold, match="object"):
        shape({"x": [object()]}, 1, 1, {})


def test_a_tree_is_built_again_with_others() -> None:
    given = call(3)
    parts = joined_parts({**call(1), "timestep": torch.zeros(())}, PARTS)
    found = list(leaves(given, 3, 4, parts))
    assert [leaf.has_rows for leaf in found] == [True, True, False, True, False, False, False, False, True, True]
    others = iter([torch.full((1,), float(number)) for number in range(len(found))])
    again = rebuilt(given, 3, 4, parts, others)
    assert [float(tensor) for tensor in again["each"]] == [4, 5, 6, 7]
    assert again["more"]["scale"] == 1.5
    assert float(again["residuals"][1]) == 9
    assert type(again["residuals"]) is tuple
    assert next(others, None) is None


def test_outputs_stay_what_they_are() -> None:
    output = mapped(Output(sample=torch.ones(2)), torch.clone)
    assert type(output) is Output
    assert rebuilt(output, 1, 1, {}, iter([torch.zeros(1)]))["sample"] == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.ones(3, 2), torch.ones(3, 2), True),
        (torch.ones(3, 2).T, torch.ones(2, 3), True),
        (torch.zeros(2), -torch.zeros(2), False),
        (torch.full((2,), torch.nan), torch.full((2,), torch.nan), True),
        (torch.ones(2), torch.ones(2, dtype=torch.float16), False),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16), True),
        (torch.ones(2), torch.ones(1, 2), False),
        (torch.ones(()), torch.ones(()), True),
    ],
)
def test_equal_is_bit_for_bit(one: torch.Tensor, other: torch.Tensor, same: bool) -> None:
    assert equal((one, {"x": one}), (other, {"x": other})) is same
