"""What a job remembers of its end."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from server.errors import BadImage
from server.jobs.job import Job, State
from server.jobs.queue import JobQueue
from server.jobs.runner import JobRunner
from server.telemetry import Metrics


def fail() -> None:
    try:
        int("no number")
    except ValueError:
        raise BadImage("image: no picture.", param="image", code="torn") from None


def test_a_failed_job_remembers_what_to_say_and_no_frames() -> None:
    """Frames hold the request's pictures, and ended jobs are remembered for ten minutes."""
    studio = JobRunner(JobQueue(1, slots=1), cast(Any, None), Metrics())
    job = Job("ada", "m", time.monotonic())
    with pytest.raises(BadImage), studio.ending(job):
        fail()
    assert job.state is State.FAILED
    assert type(job.error) is BadImage
    assert (job.error.message, job.error.param, job.error.code) == ("image: no picture.", "image", "torn")
    assert job.error.__traceback__ is None
    assert job.error.__context__ is None
