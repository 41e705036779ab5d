"""The rule that is served, on a virtual clock, against others: never much worse than the best, and never collapsing."""

from __future__ import annotations

import statistics

import pytest

from tests.unit.worker.simulation import RULES, SCENARIOS, Scenario, simulate

_REQUESTS = 250  # python -m bench.fleet has more, and more seeds


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_ours_is_within_a_tenth_of_the_best_rule(scenario: Scenario) -> None:
    means: dict[str, list[float]] = {name: [] for name in RULES}
    for seed in range(3):
        for name, make_rule in RULES.items():
            means[name].append(statistics.fmean(simulate(scenario, make_rule, _REQUESTS, seed).latencies))
    middle = {name: statistics.median(values) for name, values in means.items()}
    # A cold start of so few requests is nearly all loading, where the order of arrival decides.
    bar = 1.1 if scenario.placed == "spread" else 1.6
    assert middle["ours"] <= bar * min(middle.values()), middle


def test_affinity_without_a_way_out_is_not_ours() -> None:
    """A hot model on one device: mean 31 s where it may not be loaded a second time."""
    (hot,) = (scenario for scenario in SCENARIOS if scenario.placed == "first")
    outcome = simulate(hot, RULES["ours"], _REQUESTS)
    assert outcome.loads >= 3, "on the other devices, too"
    assert statistics.fmean(outcome.latencies) < hot.load_s
