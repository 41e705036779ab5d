"""A run's next call is taken to have its last call's key only where making the key anew would give the same."""

from __future__ import annotations

import pytest
import torch

from pipelines.engine.collate import Fingerprints, Part, Parts, Signature, group_key, keeps_key

ROWS = 2
PARTS: Parts = {("ids",): Part.SAME}


def arguments(**changed: object) -> dict[str, object]:
    call: dict[str, object] = {
        "sample": torch.zeros(ROWS, 4, 8, 8),
        "timestep": torch.tensor(5),
        "ids": torch.arange(6),
        "extra": {"text": torch.zeros(ROWS, 3), "scale": 1.0},
        "flag": False,
        "nothing": None,
    }
    return {**call, **changed}


def keeps(new: dict[str, object], old: dict[str, object], prints: Fingerprints) -> bool:
    return keeps_key(new, old, (), ROWS, PARTS, prints)


def test_new_rows_of_the_same_shape_keep_the_key() -> None:
    prints, old = Fingerprints(), arguments()
    key = group_key(old, ROWS, PARTS, prints)
    new = {**old, "sample": torch.ones(ROWS, 4, 8, 8), "timestep": torch.tensor(4), "extra": dict(old["extra"])}  # type: ignore[call-overload]
    assert keeps(new, old, prints)
    assert group_key(new, ROWS, PARTS, prints) == key


@pytest.mark.parametrize(
    "changed",
    [
        {"sample": torch.zeros(ROWS, 4, 8, 16)},
        {"sample": torch.zeros(ROWS, 4, 8, 8, dtype=torch.float64)},
        {"extra": {"text": torch.zeros(ROWS, 3), "scale": 2.0}},
        {"extra": {"text": torch.zeros(ROWS, 5), "scale": 1.0}},
        {"extra": {"text": torch.zeros(ROWS, 3)}},
        {"flag": 0},
        {"nothing": 1},
        {"ids": torch.arange(6)},  # equal, but not known to be: the key is made anew
        {"more": None},
    ],
)
def test_anything_else_does_not(changed: dict[str, object]) -> None:
    prints, old = Fingerprints(), arguments()
    group_key(old, ROWS, PARTS, prints)
    assert not keeps({**old, **changed}, old, prints)


def test_a_shared_tensor_that_was_written_to_does_not() -> None:
    prints, old = Fingerprints(), arguments()
    group_key(old, ROWS, PARTS, prints)
    assert keeps(dict(old), old, prints)
    old["ids"].add_(1)  # type: ignore[attr-defined]
    assert not keeps(dict(old), old, prints)


def test_arguments_come_in_one_order_however_they_are_given() -> None:
    def forward(sample: int, timestep: int, states: int = 3, *, mask: int | None = None, **rest: int) -> None: ...

    signature = Signature(forward)
    for _ in range(2):  # the second time from memory
        assert list(signature.normalise((1,), {"timestep": 2}).items()) == list(signature.normalise((1, 2), {}).items())
        assert signature.normalise((1, 2), {"more": 4}) == {
            "sample": 1, "timestep": 2, "states": 3, "mask": None, "more": 4,
        }  # fmt: skip
    with pytest.raises(TypeError):
        signature.normalise((1,), {})


def test_what_a_callable_keeps_no_name_for_is_told_apart() -> None:
    def forward(sample: int, *others: int) -> None: ...

    signature = Signature(forward)
    assert signature.normalise((1, 2), {}) != signature.normalise((1, 3), {})
