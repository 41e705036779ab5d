"""A second pass: several drawings' news become one job's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import msgspec
import pytest

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, ImageSpec, Picture
from server.errors import GenerationFailed
from server.jobs.further import Further, draw_further
from server.jobs.job import Job, State
from server.worker.protocol import Finished

pytestmark = pytest.mark.anyio

SPEC = ImageSpec("m", "a cat", 64, 64, 64, 64, steps=4, guidance=1.0)
FIRST = Finished("job", (), seconds=1.0, text_tokens=7)


def further(seed: int) -> Further:
    return Further(Drawing(f"job-{seed}", ModelPlan("m", "/m", "other"), SPEC, (seed,)), Encoding())


def picture(drawing: Drawing) -> Picture:
    (seed,) = drawing.seeds
    return Picture(0, b"", "image/png", 64, 64, seed)


async def test_pictures_and_news_of_all() -> None:
    job = Job("ada", "m", math.inf)
    job.transition(State.RUNNING)
    told: list[tuple[int, int]] = []

    async def draw(
        drawing: Drawing,
        encoding: Encoding,
        stepped: Callable[[int, int], None],
        previewed: Callable[[int, Picture], None],
    ) -> Finished:
        for done in (1, 2):
            await asyncio.sleep(0)
            stepped(done, 2)
            told.append((job.steps_done, job.steps_of))
        return Finished(drawing.job_id, (picture(drawing),), seconds=0.5)

    found = await draw_further(job, (further(5), further(6)), FIRST, draw)
    assert [(each.index, each.seed) for each in found.pictures] == [(0, 5), (1, 6)]
    assert (found.job_id, found.seconds, found.text_tokens) == ("job", 2.0, 7)
    assert told == [(0, 2), (1, 2), (1, 2), (2, 2)]  # the slowest's
    assert job.pass_number == 1


async def test_the_first_error_ends_the_others() -> None:
    job = Job("ada", "m", math.inf)
    ended: list[str] = []

    async def draw(drawing: Drawing, *_: object) -> Finished:
        if drawing.seeds == (5,):
            raise GenerationFailed("black")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(drawing.job_id)
            raise
        raise AssertionError

    with pytest.raises(GenerationFailed, match="black"):
        await draw_further(job, (further(5), further(6)), FIRST, draw)
    assert ended == ["job-6"]


async def test_previews_are_of_the_picture_that_they_follow() -> None:
    job = Job("ada", "m", math.inf)
    shown: list[int] = []
    job.previewed = lambda number, picture: shown.append(picture.index)  # type: ignore[method-assign]

    async def draw(drawing: Drawing, _: Encoding, __: object, previewed: Callable[[int, Picture], None]) -> Finished:
        previewed(0, msgspec.structs.replace(picture(drawing), index=0))
        return Finished(drawing.job_id, (picture(drawing),), seconds=0.5)

    await draw_further(job, (further(5), further(6)), FIRST, draw)
    assert shown == [0, 1]


async def test_an_enlargement_before_the_second_pass_is_the_jobs_to_pay() -> None:
    told: list[tuple[str, int, int, int]] = []

    class Paying:
        def draws_further(self, drawing: str, width: int, height: int, pictures: int) -> None:
            told.append((drawing, width, height, pictures))

    job = Job("ada", "m", math.inf)
    job.charge = Paying()  # type: ignore[assignment]
    large = msgspec.structs.replace(SPEC, width=128, height=128, draw_width=128, draw_height=128)
    drawn: list[str] = []

    async def draw(drawing: Drawing, *_: object) -> Finished:
        drawn.append(drawing.job_id)
        return Finished(drawing.job_id, (picture(drawing),), seconds=0.5)

    async def begun(second: Drawing, made: Finished) -> Drawing:
        assert made.job_id == "job-5-larger"
        return second

    enlarged = Drawing("job-5-larger", ModelPlan("net", "/net", "upscaler"), large, (5,))
    second = further(5)
    await draw_further(job, (Further(second.drawing, second.encoding, enlarged, begun),), FIRST, draw)
    assert drawn == ["job-5-larger", "job-5"]
    assert told == [("job-5-larger", 128, 128, 1), ("job-5", 64, 64, 1)]
