"""The mix of ``darkroom bench``: what it asks for, and that a seed repeats it."""

from __future__ import annotations

from server.commands.bench.mix import make_asks
from tests.unit.commands.bench.stub import EVERYTHING


def test_the_same_seed_sends_the_same_requests() -> None:
    assert make_asks(EVERYTHING, 20, 7) == make_asks(EVERYTHING, 20, 7)
    assert make_asks(EVERYTHING, 20, 7) != make_asks(EVERYTHING, 20, 8)


def test_a_mix_asks_for_everything_in_it() -> None:
    asks = make_asks(EVERYTHING, 200, 1)
    bodies = [ask.body for ask in asks]
    assert {body["size"] for body in bodies} == {"256x256", "512x512"}
    assert {body["num_inference_steps"] for body in bodies} == {4, 5, 6, 7, 8, 9}
    assert {body["guidance_scale"] for body in bodies} == {1.0, 5.0}
    assert {body["n"] for body in bodies} == {1, 2}
    for ask in asks:
        assert ("image" in ask.body, "mask" in ask.body) == (ask.task != "t2i", ask.task == "inpaint")
