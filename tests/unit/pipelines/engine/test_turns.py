"""Whose turn it is between two steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.engine.cost import MAX_STEP_S
from pipelines.engine.shared import Stage
from pipelines.engine.turns import Turns


def call(stage: Stage, *, steps_done: int = 0) -> Any:
    """A call of a module whose forwards cost nothing that is known."""
    shared = SimpleNamespace(
        stage=stage, is_denoiser=stage in (Stage.CONTROL, Stage.DENOISE), costs=SimpleNamespace(cost=lambda area: None)
    )
    return SimpleNamespace(shared=shared, history=SimpleNamespace(steps_done=steps_done))


ENCODE, DECODE, BEGINS, DRAWS = (
    call(Stage.ENCODE),
    call(Stage.DECODE),
    call(Stage.DENOISE),
    call(Stage.DENOISE, steps_done=2),
)


def took(turns: Turns, what: Any, seconds: float) -> None:
    turns.took(what.shared, 1, 77, seconds)


def test_prompts_are_encoded_until_that_has_taken_as_long_as_a_step() -> None:
    turns = Turns()
    took(turns, DRAWS, 1.0)
    assert turns.due([DRAWS, ENCODE]) == [DRAWS, ENCODE]
    took(turns, ENCODE, 0.6)
    assert turns.due([DRAWS, ENCODE]) == [DRAWS, ENCODE]
    took(turns, ENCODE, 0.6)
    assert turns.due([DRAWS, ENCODE]) == [DRAWS]
    took(turns, DRAWS, 1.0)
    assert turns.due([DRAWS, ENCODE]) == [DRAWS, ENCODE]


def test_one_forward_goes_however_long_it_takes() -> None:
    turns = Turns()
    took(turns, DRAWS, 0.01)
    assert ENCODE in turns.due([DRAWS, ENCODE])
    took(turns, ENCODE, 5.0)
    assert turns.due([DRAWS, ENCODE]) == [DRAWS]


def test_runs_that_have_not_begun_wait_for_those_that_came_with_them() -> None:
    """Else the first of a crowd takes its first step alone, and the others theirs after it."""
    turns = Turns()
    took(turns, ENCODE, MAX_STEP_S / 2)
    assert turns.due([BEGINS, ENCODE]) == [BEGINS, ENCODE]
    took(turns, ENCODE, MAX_STEP_S / 2)
    assert turns.due([BEGINS, ENCODE]) == [BEGINS], "but no longer than a step may take"


def test_one_decode_goes_and_hinders_no_prompt() -> None:
    turns = Turns()
    took(turns, DECODE, 0.1)
    assert turns.due([DRAWS, DECODE, ENCODE]) == [DRAWS, ENCODE]
    took(turns, ENCODE, 9.0)
    assert turns.due([DRAWS, DECODE, ENCODE]) == [DRAWS]


@pytest.mark.parametrize("waiting", [[ENCODE], [ENCODE, DECODE]])
def test_nobody_is_held_up_where_none_waits_for_a_step(waiting: list[Any]) -> None:
    turns = Turns()
    took(turns, DECODE, 9.0)
    took(turns, ENCODE, 9.0)
    assert turns.due(waiting) == waiting


def test_what_a_module_is_known_to_cost_counts_not_what_the_host_took() -> None:
    turns = Turns()
    took(turns, DRAWS, 1.0)
    slow = call(Stage.ENCODE)
    slow.shared.costs.cost = lambda area: SimpleNamespace(fixed_s=0.5, row_s=0.1, area=77)
    turns.took(slow.shared, 5, 77, 0.001)
    assert turns.due([DRAWS, slow]) == [DRAWS], "a device goes on when the host is done"


def test_the_check_at_load_has_all_prompts_encoded_first() -> None:
    turns = Turns(encodes_first=True)
    took(turns, DRAWS, 0.1)
    took(turns, ENCODE, 99.0)
    assert turns.due([DRAWS, ENCODE]) == [DRAWS, ENCODE]
