"""When a worker was last heard, of what it loads and of what it draws."""

from __future__ import annotations

import pytest

from server.worker import hearing, protocol
from server.worker.hearing import Hearing
from tests.unit.worker.clock import Clock, set_clock

GOES_ON = protocol.LoadProgress("mini", 3, 0)
LOADING, READY = protocol.Moved("mini", "loading", "", 0.0), protocol.Moved("mini", "ready", "", 9.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return set_clock(monkeypatch, hearing)


def test_a_load_that_goes_on_is_not_silent(clock: Clock) -> None:
    heard = Hearing()
    heard.hear(LOADING)
    for _ in range(20):
        clock.now += 100
        heard.hear(GOES_ON)
        assert heard.silent_s(loads=True, draws=False) == 0
    clock.now += 901
    assert heard.silent_s(loads=True, draws=False) == 901


def test_a_load_that_hangs_is_not_excused_by_what_is_drawn(clock: Clock) -> None:
    """It was, for as long as anything was drawn."""
    heard = Hearing()
    heard.hear(LOADING)
    heard.hear(GOES_ON)
    for _ in range(10):
        clock.now += 100
        heard.hear(protocol.Progress("job_1", 1, 9, 1))
    assert heard.silent_s(loads=True, draws=True) == 1000
    heard.hear(READY)
    assert heard.silent_s(loads=False, draws=True) == 0


def test_what_is_drawn_is_not_excused_by_a_load_that_goes_on(clock: Clock) -> None:
    heard = Hearing()
    heard.hear(LOADING)
    for _ in range(10):
        clock.now += 100
        heard.hear(GOES_ON)
    assert heard.silent_s(loads=True, draws=True) == 1000
    assert heard.silent_s(loads=True, draws=False) == 0, "nothing is drawn"
    heard.begin_drawing(idle=False, draws=True)
    assert heard.silent_s(loads=True, draws=True) == 1000, "another that begins is no sign of life"
    heard.begin_drawing(idle=False, draws=False)
    assert heard.silent_s(loads=True, draws=True) == 0


def test_a_load_that_waits_for_room_has_yet_to_begin(clock: Clock) -> None:
    """It waits for what is drawn, which gives signs of life of its own."""
    heard = Hearing()
    heard.hear(GOES_ON)
    heard.hear(READY)
    heard.hear(LOADING)
    for _ in range(10):
        clock.now += 100
        heard.hear(protocol.Progress("job_1", 1, 9, 1))
    assert heard.silent_s(loads=True, draws=True) == 0
