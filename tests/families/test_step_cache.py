"""Steps that are left out in other families: two calls a step, ControlNets, lists of tensors, flows."""

from __future__ import annotations

import msgspec
import pytest

from pipelines.facts import step_cache
from pipelines.plan import Drawing
from tests.families import matrix, tiny
from tests.families.drive import check, draw

SAME = 1e-5
ROWS = {row.name: row for row in matrix.MATRIX}


@pytest.mark.parametrize("name", ["SD ControlNet", "FLUX.1", "Qwen-Image", "Z-Image", "Lumina 2"])
def test_runs_with_and_without_give_together_what_they_give_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Random weights make a step so unlike the one before that no check would leave it out.
    monkeypatch.setattr(step_cache, "_TOLERANCE", 1e9)
    monkeypatch.setattr(step_cache, "_TOLERANCE_SHORT", 1e9)
    model = tiny.build(name)
    check(model)
    one, other, third = ROWS[name].requests(model)[:3]
    drawings = [_with(one, 20, 0.5), _with(other, 13, 1.0), _with(third, 8, 0.0)]
    alone = [draw(model, [drawing]) for drawing in drawings]
    calls = alone[2].forwards // 8  # of a step
    assert alone[0].forwards < 14 * calls
    assert alone[1].forwards < 9 * calls
    together = draw(model, drawings)
    assert together.fallbacks == 0
    assert together.forwards < sum(each.forwards for each in alone)
    for drawing, each in zip(drawings, alone, strict=True):
        off = together.pictures[drawing.job_id] - each.pictures[drawing.job_id]
        assert float(off.abs().max()) <= SAME


def _with(drawing: Drawing, steps: int, strength: float) -> Drawing:
    spec = msgspec.structs.replace(drawing.spec, steps=steps, step_cache=strength, scheduler=None)
    return msgspec.structs.replace(drawing, spec=spec)
