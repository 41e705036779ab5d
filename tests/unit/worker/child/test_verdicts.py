"""What a check found is kept with what was learnt since, so that the next start guesses well."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.engine.learning import Curve, StepCosts
from pipelines.models.records import Record, Records
from pipelines.models.verdict import ModuleVerdict, Verdict
from server.catalog.load import load_catalog
from server.worker.child.verdicts import Verdicts

ROOT = Path(__file__).parent.parent.parent.parent.parent
PLAN = next(iter(load_catalog(ROOT / "models.yaml").plans.values()))
GUESS = Curve(64, ((2, 0.1, 0.05), (4, 0.2, 0.05)))
FOUND = Verdict(7, True, "", True, {"unet": ModuleVerdict((), (), 64.0, GUESS), "vae": ModuleVerdict((), (), 64.0)})


class Worker:
    """One process, and the model that it has."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verdicts = Verdicts(Records(folder, darkroom="1", device="CPU"))
        record, self.known = self.verdicts.record_of(PLAN)
        self.costs = StepCosts(GUESS)
        denoiser = SimpleNamespace(name="unet", is_denoiser=True, costs=self.costs)
        decoder = SimpleNamespace(name="vae", is_denoiser=False, costs=StepCosts())
        model: Any = SimpleNamespace(shared_modules={1: denoiser, 2: decoder})
        self.verdicts.checked(PLAN, record, self.known or FOUND, self.known, model)
        self.written = 0
        keep = Record.keep

        def counting(record: Record, name: str, value: object) -> None:
            self.written += 1
            keep(record, name, value)

        monkeypatch.setattr(Record, "keep", counting)

    def step(self, count: int, times: float) -> None:
        for number in range(count):
            rows = 2 + 2 * (number % 2)
            self.costs.learn(rows, 64, 0.05 * rows * times)

    def keep(self) -> None:
        self.verdicts.keep(self.verdicts.learnt())


def test_what_was_learnt_is_there_for_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that had started while its CPU was busy would have measured as badly the next time."""
    first = Worker(tmp_path, monkeypatch)
    assert first.known is None
    first.step(40, 0.5)
    first.keep()
    known = Worker(tmp_path, monkeypatch).known
    assert known is not None
    curve = known.modules["unet"].costs
    assert curve is not None
    assert {rows: seconds for rows, seconds, _ in curve.samples} == pytest.approx({2: 0.05, 4: 0.1})
    assert known.with_costs({"unet": GUESS}) == FOUND, "the rest is as the check found it"


def test_what_has_not_moved_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(tmp_path, monkeypatch)
    worker.keep()
    worker.step(40, 1.02)
    worker.keep()
    assert worker.written == 0
    worker.step(40, 1.2)
    worker.keep()
    worker.keep()
    assert worker.written == 1


def test_of_a_model_that_left_models_yaml_nothing_more_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(tmp_path, monkeypatch)
    worker.step(40, 3.0)
    learnt = worker.verdicts.learnt()
    worker.verdicts.forget_all_but(())
    worker.verdicts.keep(learnt)
    assert worker.written == 0
