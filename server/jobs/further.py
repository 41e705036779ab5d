"""Further drawings: the second pass of a job whose pictures are each drawn once more.

Knows a job's steps and previews, and how many drawings' news become one job's; knows neither the fleet nor pictures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec

from pipelines.plan import Drawing
from pipelines.spec import Encoding, Picture
from server.jobs.job import Job
from server.worker.protocol import Finished

Stepped = Callable[[int, int], None]  # steps done, steps in all
Previewed = Callable[[int, Picture], None]  # which preview, and the picture
Draw = Callable[[Drawing, Encoding, Stepped, Previewed], Coroutine[Any, Any, Finished]]


@dataclass(frozen=True)
class Further:
    """A drawing that is made of one picture of the first; of one that is ``enlarged`` before, ``begun`` makes it of
    what came out."""

    drawing: Drawing
    encoding: Encoding
    enlarged: Drawing | None = None
    begun: Callable[[Drawing, Finished], Coroutine[Any, Any, Drawing]] | None = None


def _unheard(first: int, second: Any) -> None:
    """Enlarging is no step of a pass."""


async def draw_further(job: Job, further: tuple[Further, ...], first: Finished, draw: Draw) -> Finished:
    """The pictures of the drawings that follow ``first``, in their order. They are drawn at once and share steps; the
    first error ends all."""
    job.next_pass(max(each.drawing.spec.steps for each in further))
    if job.charge is not None:
        for drawing in (begins for each in further for begins in (each.enlarged, each.drawing) if begins is not None):
            spec = drawing.spec
            job.charge.draws_further(drawing.job_id, spec.draw_width, spec.draw_height, len(drawing.seeds))
    done_by = [0] * len(further)

    async def one(number: int, each: Further) -> Finished:
        def stepped(done: int, of: int) -> None:
            done_by[number] = done
            job.stepped(min(done_by), of)

        def previewed(preview: int, picture: Picture) -> None:
            job.previewed(preview, msgspec.structs.replace(picture, index=number))

        drawing = each.drawing
        if each.enlarged is not None and each.begun is not None:
            larger = await draw(each.enlarged, Encoding(metadata=False, provenance=False), _unheard, _unheard)
            drawing = await each.begun(drawing, larger)
        return await draw(drawing, each.encoding, stepped, previewed)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number, each)) for number, each in enumerate(further)]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    second = [task.result() for task in tasks]
    pictures = [picture for finished in second for picture in finished.pictures]
    return msgspec.structs.replace(
        first,
        pictures=tuple(msgspec.structs.replace(picture, index=index) for index, picture in enumerate(pictures)),
        seconds=first.seconds + sum(finished.seconds for finished in second),
    )
