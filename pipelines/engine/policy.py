"""Which waiting calls share the next step.

Knows rows, areas, work left and how long each has waited; knows neither tensors nor threads.

Least work left first: short requests are not stuck behind long ones, and the mean latency is the least that an
order can give (Schrage 1968). Ageing keeps the long ones from starving: it counts all the steps that went without
a run, and being served once does not forget them, or a long run under a stream of short ones would wait as long
again for each of its steps. A principal with many rows waiting has its work counted for more. Rows are bounded,
because past the knee of step time against rows another row only makes everybody wait.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol, TypeVar

from pipelines.engine.cost import MAX_ROWS

_AGEING_STEPS = 16  # steps without a run that halve the work it appears to have left; bench/order.py shows it


class Waiting(Protocol):
    """What the policy reads of a waiting call."""

    @property
    def key(self) -> Hashable: ...  # calls with equal keys fit one batch
    @property
    def rows(self) -> int: ...
    @property
    def area(self) -> int: ...  # latent elements a row; what a row costs is taken to grow with it
    @property
    def steps_left(self) -> int: ...
    @property
    def passed_over(self) -> int: ...  # steps that went without its run, in all the time that it waited for one
    @property
    def principal(self) -> str: ...
    @property
    def first(self) -> bool: ...  # goes before any that does not: a short stage that lets a run go on


W = TypeVar("W", bound=Waiting)


def choose(waiting: Sequence[W], most_rows: Mapping[Hashable, int]) -> list[W]:
    """The calls of the next step, from ``waiting`` (not empty). ``most_rows`` bounds the rows of a key.

    One call is always chosen, however many rows it has.
    """
    ahead = [call for call in waiting if call.first] or list(waiting)
    rows_of: dict[str, int] = defaultdict(int)
    for call in waiting:
        rows_of[call.principal] += call.rows
    total = sum(rows_of.values())

    def work(call: W) -> float:
        share = rows_of[call.principal] / total
        return call.steps_left * call.rows * call.area * (1 + share) / (1 + call.passed_over / _AGEING_STEPS)

    ranked = sorted(ahead, key=work)
    head = ranked[0]
    room = most_rows.get(head.key, MAX_ROWS) - head.rows
    chosen = [head]
    for call in ranked[1:]:
        if call.key == head.key and call.rows <= room:
            chosen.append(call)
            room -= call.rows
    return chosen
