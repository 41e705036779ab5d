"""The figures of the long suites: a slope that is there is seen, and a picture that is not right is told."""

from __future__ import annotations

import json
import random

import pytest

from tests.pictures import png, scene, text
from tests.reliability.asks import Mix, Wrong, drawn, judge
from tests.reliability.journal import Bar, quantile
from tests.reliability.trend import trend
from tests.reliability.wire import Answer


def _memory(slope: float, *, level: float, seed: int) -> list[tuple[float, float]]:
    rng = random.Random(seed)
    return [(minute / 60, level + slope * minute / 60 + rng.gauss(0, 1)) for minute in range(240)]


def test_a_leak_is_above_the_bar_and_noise_is_not() -> None:
    assert trend([_memory(0, level=80, seed=1)]).upper < 5
    assert trend([_memory(10, level=80, seed=1)]).upper > 5


def test_the_level_of_a_second_server_is_no_slope() -> None:
    found = trend([_memory(0, level=80, seed=1), _memory(0, level=200, seed=2)])
    assert abs(found.slope) < 1


def test_figures_that_are_like_those_before_widen_the_bound() -> None:
    rng = random.Random(1)
    wandering, level = [], 0.0
    for minute in range(240):
        level = 0.9 * level + rng.gauss(0, 1)
        wandering.append((minute / 60, level))
    shuffled = [figure for _, figure in wandering]
    rng.shuffle(shuffled)
    plain = trend([[(time, figure) for (time, _), figure in zip(wandering, shuffled, strict=True)]])
    found = trend([wandering])
    assert found.upper - found.slope > 2 * (plain.upper - plain.slope)


def test_without_figures_no_bar_is_met() -> None:
    assert not Bar("slope", trend([]).upper, 5).met
    assert not Bar("p99", quantile([], 0.99), 250).met


def test_the_same_seed_and_number_are_the_same_ask() -> None:
    mix = Mix(7, ("url", "mask", "bad_field"))
    assert [mix.ask(number) for number in range(20)] == [Mix(7, ("url", "mask", "bad_field")).ask(n) for n in range(20)]


@pytest.mark.parametrize(
    ("status", "seeds", "rest", "says"),
    [
        (500, [1], b"", "500"),
        (200, [], b"", "lost or doubled"),
        (200, ["first", "first"], b"", "lost or doubled"),
        (200, ["first"], b"HTTP/1.1 200 OK", "behind the answer"),
        (200, ["first"], b"", "torn picture"),  # one without parameters
    ],
)
def test_an_answer_that_is_not_the_right_one_is_told(
    status: int, seeds: list[int | str], rest: bytes, says: str
) -> None:
    ask = drawn("b64", random.Random(1), steps=1, n=1)
    data = text(png(scene(8, 8)))
    items = [{"seed": ask.seeds[0] if seed == "first" else seed, "b64_json": data} for seed in seeds]
    answer = Answer(status, {"content-type": "application/json"}, json.dumps({"data": items}).encode(), rest)
    with pytest.raises(Wrong, match=says):
        judge(ask, answer)
