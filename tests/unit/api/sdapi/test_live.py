"""Progress and interrupt: of which jobs they tell, and what they keep of previews."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import ImageSpec, Picture
from server.api.sdapi.live import LiveJob, LiveJobs, Newest
from server.jobs.budget import Budget, Hold
from server.jobs.job import Job, State

pytestmark = pytest.mark.anyio


def preview(index: int, size: int = 10) -> Picture:
    return Picture(index, bytes(size), "image/png", 8, 8, seed=index)


def live(principal: str = "ada", *, count: int = 1, passes: int = 1, room: int = 1000) -> LiveJob:
    job = Job(principal, "mini", math.inf)
    return LiveJob("scripts_txt2img", job, Newest(Hold(Budget(room), principal)), count, passes)


@contextlib.contextmanager
def following(*jobs: LiveJob) -> Iterator[LiveJobs]:
    with contextlib.ExitStack() as stack:
        known = LiveJobs()
        for job in jobs:
            stack.enter_context(known.following(job))
        yield known


def running(job: LiveJob, done: int = 0, of: int = 10) -> LiveJob:
    job.job.transition(State.RUNNING)
    job.job.stepped(done, of)
    return job


async def test_a_key_sees_its_own_jobs_alone() -> None:
    mine, other = live("ada"), live("bob")
    with following(other, mine) as known:
        assert known.oldest("ada") is mine
        assert known.oldest("carl") is None
        known.interrupt("carl")
        known.interrupt("ada")
        assert (mine.is_interrupted, other.is_interrupted) == (True, False)
    assert known.oldest("ada") is None


async def test_what_is_drawn_goes_before_what_waits() -> None:
    waiting, drawn, later = live(), running(live()), running(live())
    with following(waiting, drawn, later) as known:
        assert known.oldest("ada") is drawn


@pytest.mark.parametrize(
    ("done", "progress", "number", "step"), [(0, 0.01, 0, 0), (3, 0.31, 0, 6), (5, 0.51, 1, 0), (10, 1.0, 1, 10)]
)
async def test_progress_in_parts_of_n_iter(done: int, progress: float, number: int, step: int) -> None:
    job = running(live(count=2), done)
    state = job.state()
    assert job.progress == pytest.approx(progress)
    assert (state["job_count"], state["job_no"], state["sampling_step"], state["sampling_steps"]) == (
        2, number, step, 10,
    )  # fmt: skip


async def test_progress_never_is_nothing_while_a_job_waits() -> None:
    """SillyTavern and webuiapi take 0 for idle."""
    job = live()
    assert job.progress == 0.01
    assert job.state()["job_count"] == 1


async def test_the_second_pass_goes_on_from_half() -> None:
    job = running(live(passes=2), 10)
    assert job.done == 0.5
    job.job.next_pass(4)
    assert (job.done, job.state()["job_no"]) == (0.5, 1)
    job.job.stepped(2, 4)
    assert job.done == 0.75
    assert job.state()["job_count"] == 2


async def test_the_newest_preview_of_each_picture_is_kept() -> None:
    job = live()
    with following(job):
        for each in (preview(1), preview(0), preview(1, 20)):
            job.job.previewed(0, each)
    assert [(picture.index, len(picture.data)) for picture in job.feed.pictures] == [(0, 10), (1, 20)]


async def test_previews_without_room_are_left_out() -> None:
    budget = Budget(100)
    with budget.hold("bob") as other:
        other.take(60)
        feed = Newest(hold := Hold(budget, "ada"))
        feed.preview(0, preview(0, 10))
        feed.preview(1, preview(0, 90))
        assert [len(picture.data) for picture in feed.pictures] == [10]
        assert hold.size == 10
        feed.preview(2, preview(0, 5))
        assert hold.size == 5


async def test_an_interrupted_job_knows_its_seeds_and_is_cancelled() -> None:
    job = running(live())
    spec = ImageSpec("mini", "", 8, 8, 8, 8, 1, 1.0)
    job.job.prepared(Drawing("id", ModelPlan("mini", "/mini", "other"), spec, (7, 8)))
    cancelled: list[bool] = []
    job.job.cancel = lambda: cancelled.append(True)
    with following(job) as known:
        known.interrupt("ada")
        known.interrupt("ada")
    assert (job.seeds, cancelled, job.state()["interrupted"]) == ((7, 8), [True], True)


async def test_nothing_is_left_of_thousands_of_jobs_and_keys() -> None:
    known = LiveJobs()
    for number in range(10_000):
        job = live(f"key-{number}")
        with known.following(job):
            known.interrupt(f"key-{number}")
        assert job.job.feeds == []
    assert known._of == {}


async def test_who_waits_for_one_job_pays_once_and_an_ended_one_is_left_alone() -> None:
    class Charge:
        paid = 0

        def delivered(self, pictures: int) -> None:
            self.paid += pictures

    first, joined = live(), live()
    joined.job = first.job
    first.job.charge = charge = Charge()  # type: ignore[assignment]
    with following(first) as known:
        first.job.previewed(0, preview(0))
        with known.following(joined):
            first.job.previewed(0, preview(1))
            known.interrupt("ada")
            first.job.previewed(1, preview(2))  # which was on its way
            known.interrupt("ada")
    assert charge.paid == 2
    assert ([len(each.pictures) for each in (first, joined)], first.is_interrupted) == ([2, 1], True)

    ended = running(live())
    ended.job.transition(State.DONE)
    with following(ended) as known:
        known.interrupt("ada")
    assert not ended.is_interrupted
