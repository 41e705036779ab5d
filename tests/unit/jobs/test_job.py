"""A job's states: every way that is drawn, and no other."""

from __future__ import annotations

import itertools
import time

import pytest

from server.jobs.job import Job, State, new_job_id

DRAWN = {
    (State.QUEUED, State.RUNNING),
    (State.QUEUED, State.FAILED),
    (State.QUEUED, State.CANCELLED),
    (State.RUNNING, State.DONE),
    (State.RUNNING, State.FAILED),
    (State.RUNNING, State.CANCELLED),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_transitions(old: State, new: State) -> None:
    job = Job("me", "m", time.monotonic())
    job.state = old
    if (old, new) in DRAWN:
        job.transition(new)
        assert job.state is new
    else:
        with pytest.raises(RuntimeError, match=f"{old} to {new}"):
            job.transition(new)
        assert job.state is old


def test_ids_are_not_guessable_twice() -> None:
    assert len({new_job_id() for _ in range(1000)}) == 1000
