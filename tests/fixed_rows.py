"""Costs that are learnt as ever, and a bound of rows that does not move: for tests and benches that count forwards."""

from __future__ import annotations

from pipelines.engine.learning import StepCosts


class FixedRows(StepCosts):
    """As many rows a step as it is made with, whatever they take."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows

    def most_rows(self, area: int) -> int:
        return self._rows

    def to_try(self, bound: int, waiting: int, area: int) -> int:
        return bound

    def guessed(self) -> StepCosts:
        return self
