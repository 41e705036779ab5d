"""Which device should draw? Rules compared on a virtual clock; and what two workers draw against one.

    python -m bench.fleet               # the simulation: a minute, on any machine; writes bench/out/fleet.md
    python -m bench.fleet --pictures    # pictures/s of cpu,cpu against cpu, one thread each: quiet machine, two cores

The simulation is tests/unit/worker/simulation.py: the rule is the one that is served, and steps are chosen by the
engine's own policy. The bar: ours within 10 % of the best rule in every scenario.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import tables
from tests.running import Running, start
from tests.unit.worker.simulation import RULES, SCENARIOS, Scenario, simulate

BAR = 1.1  # of the best rule's mean
PICTURES_BAR = 1.75


def compared(count: int, seeds: Sequence[int]) -> str:
    """Mean latency, its p95 and loads of every rule in every scenario, and ours against the best."""
    rows = []
    for scenario in SCENARIOS:
        means, cells = {}, []
        for name, make_rule in RULES.items():
            outcomes = [simulate(scenario, make_rule, count, seed) for seed in seeds]
            means[name] = tables.median(tables.mean(outcome.latencies) for outcome in outcomes)
            late = tables.median(tables.percentile(outcome.latencies, 95) for outcome in outcomes)
            loads = tables.median(1000 * outcome.loads / count for outcome in outcomes)
            cells.append(f"{means[name]:.2f} ({late:.1f}) [{loads:.0f}]")
        ratio = means["ours"] / min(means.values())
        rows.append((_told(scenario), *cells, f"{ratio:.2f}{'' if ratio <= BAR else ' !'}"))
    return tables.table(("scenario", *RULES, "ours ÷ best"), rows)


def _told(scenario: Scenario) -> str:
    return f"{scenario.name}, ρ {scenario.load:g}"


def pictures(requests: int, clients: int, rounds: int) -> str:
    """Pictures a second of one worker and of two, by turns, each of one thread."""
    kinds = {"cpu": "one worker", "cpu,cpu": "two workers"}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder, start(Path(folder), devices=kind, threads=1) as running:
                _ask(running, clients, clients)  # warm
                began = time.perf_counter()
                _ask(running, requests, clients)
                found[kind].append(requests / (time.perf_counter() - began))
    middle = {kind: tables.median(rates) for kind, rates in found.items()}
    rows = [
        (kinds[kind], ", ".join(f"{rate:.2f}" for rate in rates), f"{middle[kind]:.2f}")
        for kind, rates in found.items()
    ]
    ratio = middle["cpu,cpu"] / middle["cpu"]
    return (
        f"{tables.table(('', 'pictures/s, by round', 'median'), rows)}\n\nRatio {ratio:.2f}; the bar: {PICTURES_BAR}."
    )


def _ask(running: Running, requests: int, clients: int) -> None:
    def draw(number: int) -> None:
        answer = running.draw(prompt=f"a red apple, {number}", seed=number, quality="hd")
        answer.raise_for_status()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(draw, range(requests)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, help="in a simulation (default: 1000), or pictures (default: 192)")
    parser.add_argument("--seeds", type=int, default=5, help="the median of so many is printed (default: 5)")
    parser.add_argument("--pictures", action="store_true", help="measure pictures/s instead")
    parser.add_argument("--clients", type=int, default=32, help="with --pictures: at a time (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="with --pictures: of each kind, by turns (default: 3)")
    arguments = parser.parse_args()
    if arguments.pictures:
        tables.publish(
            "fleet-pictures",
            f"## Two workers against one, one thread each, hd, {arguments.clients} clients",
            pictures(arguments.requests or 192, arguments.clients, arguments.rounds),
        )
        return
    count = arguments.requests or 1000
    tables.publish(
        "fleet",
        "## Which device draws?",
        f"Mean latency in s (p95) [loads a 1000 requests], {count} requests, median of {arguments.seeds} seeds. 70 % "
        "have 4 steps of one row, 30 % have 30 steps of two; Poisson arrivals at ρ of what the devices do in full "
        f"batches; a load takes 10 s. The bar: ours within {BAR - 1:.0%} of the best.",
        compared(count, range(arguments.seeds)),
    )


if __name__ == "__main__":
    main()
