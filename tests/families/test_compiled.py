"""Compiled denoisers: what they meet before anybody waits is all that they meet afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.engine.shared import SharedModule
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel
from tests.families import tiny
from tests.families.drive import draw, drawing
from tests.fixed_rows import FixedRows


def compiled(model: LoadedModel) -> SharedModule:
    """The denoiser, as if it were compiled, with room for 4 rows."""
    (shared,) = (shared for shared in model.shared_modules.values() if shared.is_denoiser)
    shared.compiled = True
    shared.costs = FixedRows(4)
    return shared


def is_mask(name: str, value: Any) -> bool:
    return "mask" in name and value is not None


@pytest.mark.parametrize(
    ("name", "block"), [("Z-Image", "ZImageTransformerBlock"), ("Qwen-Image", "QwenImageTransformerBlock")]
)
def test_prompts_of_two_lengths_meet_no_graph_that_is_not_made(name: str, block: str) -> None:
    """These blocks are given a mask where prompts differ in length, and none where they do not. Only one of the two
    was compiled at load: the first mixed batch compiled for minutes, while everybody waited."""
    model = tiny.build(name)
    shared = compiled(model)
    graphs: set[tuple[int, bool]] = set()

    def note(module: Any, args: Any, kwargs: Any) -> None:
        positional = {} if name != "Z-Image" else dict(zip(("x", "mask"), args, strict=False))
        masked = any(is_mask(key, value) for key, value in {**positional, **kwargs}.items())
        rows = next(value for value in (*args, *kwargs.values()) if hasattr(value, "shape")).shape[0]
        graphs.add((rows, masked))

    for module in shared.module.modules():
        if type(module).__name__ == block:
            module.register_forward_pre_hook(note, with_kwargs=True)
    selfcheck.check(model)
    assert model.shares
    made = set(graphs)
    assert {(rows, masked) for rows in (2, 4) for masked in (False, True)} <= made
    graphs.clear()
    prompts = ("a cat", "an old map of a wide sea with boats on it, seen from above", "a dog")
    draw(model, [drawing(model, number, prompt, steps=2) for number, prompt in enumerate(prompts)])
    assert any(masked for _, masked in graphs), "they shared steps"
    assert graphs <= made
