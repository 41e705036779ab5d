"""What torch remembers per thread stays each run's own, though all runs take turns on one thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from pipelines.engine import thread_state
from pipelines.engine.engine import Engine
from pipelines.engine.thread_state import ThreadState
from tests.engine.conftest import Bench, Seen

SWITCHES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_runs_switches_do_not_reach_the_others(bench: Bench, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    plain, odd = bench.drawing("plain", steps=4, prompt="two dogs"), bench.drawing("odd", steps=4)
    alone = bench.alone(plain)
    kind = type(bench.model.pipeline(plain.spec.task))
    call = kind.__call__
    seen: dict[str, list[ThreadState]] = {"plain": [], "odd": []}

    @functools.wraps(call)  # what it takes is asked
    def switching(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["prompt"] == plain.spec.prompt:
            return call(self, *args, **kwargs)
        with SWITCHES[switch]():
            return call(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", switching)
    before: list[ThreadState] = []
    sink = Seen()
    sink.on_progress = lambda drawing, done: seen[drawing.job_id].append(thread_state.current())
    engine = Engine(sink)
    ended = threading.Semaphore(0)

    def left() -> None:
        before.append(thread_state.current())
        ended.release()

    engine.submit(bench.model, plain, odd, done=left)
    for _ in range(2):
        assert ended.acquire(timeout=120)
    engine.close()
    assert not sink.errors
    assert (sink.pictures["plain"] - alone).abs().max() < 5e-5
    outside = ThreadState(grad=False, inference=False, casts=(None, None))
    assert set(seen["plain"]) == {outside}
    assert set(before) == {outside}, "the thread is as it was once the run has ended"
    (odd_state,) = set(seen["odd"])
    if switch != "gradients":  # which diffusers turns off again, inside
        assert odd_state != outside


def test_restoring_sets_every_switch() -> None:
    base = thread_state.current()
    with torch.autocast("cpu", torch.float16), torch.no_grad():
        other = thread_state.current()
        assert (other.autocast, other.grad) == (torch.float16, False)
        found: list[ThreadState] = []
        other.changed_to(base, lambda: found.append(thread_state.current()))
        assert found == [base]
        assert thread_state.current() == other
    assert thread_state.current() == base
