"""What does the order of steps buy on a device that is full? Short requests behind long ones, on a virtual clock.

    python -m bench.order            # seconds, on any machine; writes bench/out/order.md

Simulated: a step takes fixed + row × rows milliseconds, and pipelines.engine.policy.choose picks who takes part, as the
engine has it. Nothing is measured, so nothing is noisy: the same seed gives the same table everywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bench import tables
from pipelines.engine import policy
from pipelines.engine.cost import MIN_ROWS, StepCost, with_all

SHORT, LONG = 4, 30  # steps
SHORT_SHARE = 0.7  # of the requests
ROWS = 2  # a request with guidance
BAR, ALIKE_BAR = 0.25, 1.1
DEVICES = {  # as measured on CUDA: a step may have as few rows as one request
    "full: 2 + 12·rows ms": StepCost(0.002, 0.012, area=1, min_rows=ROWS),
    "in between: 13 + 6.5·rows ms": StepCost(0.013, 0.0065, area=1, min_rows=ROWS),
    "not full: 24 + 1·rows ms": StepCost(0.024, 0.001, area=1, min_rows=ROWS),
}


@dataclass(eq=False)
class Request:
    """A request, and at once its waiting call, as the policy sees it."""

    came_s: float
    steps: int
    principal: str = "one"
    key: str = "all alike"
    rows: int = ROWS
    area: int = 1
    first: bool = False
    passed_over: int = 0
    steps_left: int = field(init=False)
    done_s: float = 0.0

    def __post_init__(self) -> None:
        self.steps_left = self.steps


Policy = Callable[[Sequence[Request]], Sequence[Request]]
Follow = Callable[[Request], Request | None]


def first_come(waiting: Sequence[Request]) -> Sequence[Request]:
    """One at a time, to its end."""
    return waiting[:1]


def everybody(waiting: Sequence[Request]) -> Sequence[Request]:
    return waiting


def ours(cost: StepCost) -> Policy:
    def choose(waiting: Sequence[Request]) -> Sequence[Request]:
        rows = sum(request.rows for request in waiting)
        return policy.choose(waiting, {waiting[0].key: with_all(cost.most_rows(1), rows)})

    return choose


def simulate(requests: Iterable[Request], choose: Policy, cost: StepCost, follow: Follow) -> None:
    """Run all requests; ``follow`` may send another as one is done."""
    coming = [(request.came_s, number, request) for number, request in enumerate(requests)]
    heapq.heapify(coming)
    waiting: list[Request] = []
    now = 0.0
    while coming or waiting:
        if not waiting:
            now = max(now, coming[0][0])
        while coming and coming[0][0] <= now:
            waiting.append(heapq.heappop(coming)[2])
        chosen = choose(waiting)
        now += cost.fixed_s + cost.row_s * sum(request.rows for request in chosen)
        for request in waiting:
            request.passed_over += request not in chosen
        for request in chosen:
            request.steps_left -= 1
            if request.steps_left == 0:
                request.done_s = now
                waiting.remove(request)
                if (after := follow(request)) is not None:
                    waiting.append(after)


def alike(rows: int, steps: int = 20, at_once: int = 8) -> list[tuple[int, float]]:
    """Equal requests of so many rows, all at once, on a device that one row fills: for the most rows a step that
    measured costs allow, first on any device, then on CUDA, the mean latency against first come."""

    def mean(choose: Policy) -> float:
        requests = [Request(0.0, steps, rows=rows) for _ in range(at_once)]
        simulate(requests, choose, full, nobody)
        return tables.mean(latencies(requests))

    full = StepCost(0.0, 0.012, area=1, min_rows=rows)
    base = mean(first_come)
    return [
        (cost.most_rows(1), mean(ours(cost)) / base) for cost in (dataclasses.replace(full, min_rows=MIN_ROWS), full)
    ]


def nobody(request: Request) -> None:
    return None


def step_s(cost: StepCost, rows: int = ROWS) -> float:
    return cost.fixed_s + cost.row_s * rows


def poisson(cost: StepCost, count: int, load: float, seed: int) -> list[Request]:
    """``load`` is a share of what the device can do when it draws one request at a time."""
    dice, at, requests = random.Random(seed), 0.0, []
    mean_s = (SHORT_SHARE * SHORT + (1 - SHORT_SHARE) * LONG) * step_s(cost)
    for _ in range(count):
        at += dice.expovariate(load / mean_s)
        requests.append(Request(at, SHORT if dice.random() < SHORT_SHARE else LONG))
    return requests


def latencies(requests: Sequence[Request], steps: int | None = None) -> list[float]:
    return [r.done_s - r.came_s for r in requests if steps is None or r.steps == steps]


def ordered(count: int, load: float, seeds: Sequence[int]) -> str:
    rows = []
    for device, cost in DEVICES.items():
        base: list[float] = []
        policies = {
            "first come, to its end": first_come,
            "everybody, every step": everybody,
            f"ours, ≤ {cost.most_rows(1)} rows": ours(cost),
        }
        for name, choose in policies.items():
            figures = [_figures(poisson(cost, count, load, seed), choose, cost) for seed in seeds]
            middle = [tables.median(column) for column in zip(*figures, strict=True)]
            base = base or middle
            shown = (f"{value:.2f} ({value / first:.2f})" for value, first in zip(middle, base, strict=True))
            rows.append((device, name, *shown))
    return tables.table(("device", "order", "short p95, s", "long p95, s", "mean, s"), rows)


def _figures(requests: list[Request], choose: Policy, cost: StepCost) -> tuple[float, float, float]:
    simulate(requests, choose, cost, nobody)
    short, long = (tables.percentile(latencies(requests, steps), 95) for steps in (SHORT, LONG))
    return short, long, tables.mean(latencies(requests))


def starved(clients: int, principal: str) -> str:
    """One long request under short ones without end: each of ``clients`` sends the next as it has its picture."""
    rows = []
    for device, cost in DEVICES.items():
        long = Request(0.0, LONG, principal=principal)
        alone_s = LONG * step_s(cost)

        def again(done: Request, long: Request = long) -> Request | None:
            return None if done is long or long.done_s else Request(done.done_s, SHORT)

        simulate([*(Request(0.0, SHORT) for _ in range(clients)), long], ours(cost), cost, again)
        rows.append((device, f"{alone_s:.1f}", f"{long.done_s:.1f}", f"{long.done_s / alone_s:.1f}"))
    return tables.table(("device", "alone, s", "under the stream, s", "times"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400, help="in a simulation (default: 400)")
    parser.add_argument("--load", type=float, default=0.85, help="of one-at-a-time capacity (default: 0.85)")
    parser.add_argument("--seeds", type=int, default=9, help="the median of so many is printed (default: 9)")
    parser.add_argument("--clients", type=int, default=8, help="who send short requests without end (default: 8)")
    arguments = parser.parse_args()
    clients = arguments.clients
    tables.publish(
        "order",
        f"## Short ({SHORT}-step) requests behind long ({LONG}-step) ones",
        f"{SHORT_SHARE:.0%} short, {ROWS} rows each, Poisson arrivals at {arguments.load} of one-at-a-time capacity, "
        f"{arguments.requests} requests, median of {arguments.seeds} seeds; in brackets against first come. "
        f"The bar: short p95 on the full device ≤ {BAR}.",
        ordered(arguments.requests, arguments.load, range(arguments.seeds)),
        "## Equal requests, 8 at once, on a device that one row fills",
        f"The bar on CUDA: ≤ {ALIKE_BAR}.",
        tables.table(
            ("rows a request", "at most 8 rows a step: mean ÷ first come", "on CUDA, at most one request"),
            [(rows, *(f"{ratio:.2f}" for _, ratio in alike(rows))) for rows in (1, 2)],
        ),
        f"## Nothing starves: a long request while {clients} clients send short ones without end",
        "All from one key:",
        starved(clients, "one"),
        "The long one from another key than the short ones:",
        starved(clients, "another"),
    )


if __name__ == "__main__":
    main()
