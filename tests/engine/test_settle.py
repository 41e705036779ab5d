"""What the interpreter's collector is to pass by."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from pipelines.engine.engine import Engine
from pipelines.models import garbage
from tests.engine.conftest import Bench, Seen


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_stays_is_set_aside_when_all_is_drawn(bench: Bench) -> None:
    seen, settled = Seen(), threading.Event()
    drawn: list[int] = []

    def settle() -> None:
        drawn.append(len(seen.pictures))
        settled.set()

    engine = Engine(seen, settle=settle)
    engine.submit(bench.model, *(bench.drawing(name) for name in "ab"))
    assert settled.wait(timeout=120)
    settled.clear()
    engine.submit(bench.model, bench.drawing("later"))
    assert settled.wait(timeout=120)
    engine.close()
    assert drawn == [2, 3], "not while something is drawn, and not before"


def test_a_full_collection_passes_by_what_was_set_aside() -> None:
    stays = [[number] for number in range(300_000)]
    gc.collect()  # they are old by now
    garbage.settle()
    began = time.thread_time()
    gc.collect()
    aside_s = time.thread_time() - began
    gc.unfreeze()
    began = time.thread_time()
    gc.collect()
    assert aside_s < (time.thread_time() - began) / 4
    assert len(stays) == 300_000


def test_what_was_set_aside_and_is_over_is_collected() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.own = self

    cycle = Cycle()
    gone = weakref.ref(cycle)
    garbage.settle(many=0)
    del cycle
    gc.collect()
    assert gone() is not None, "set aside"
    garbage.collect()
    assert gone() is None


def test_few_objects_are_left_to_the_collector() -> None:
    garbage.settle(many=0)
    aside = gc.get_freeze_count()
    few = [[number] for number in range(1000)]
    gc.collect()
    garbage.settle()
    assert gc.get_freeze_count() <= aside
    assert len(few) == 1000
