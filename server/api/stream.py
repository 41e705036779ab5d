"""The answer with ``stream: true``: previews, progress and finished pictures, as they come.

Knows the names and fields of events, and how far a job's reader has been told; knows nothing of sockets.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from fastapi import Request

from server.api.events import KEEP_ALIVE, KEEP_ALIVE_S, Events, EventStream, event
from server.api.generation import Submission
from server.api.results import Item, Outcome, background, item_fields
from server.api.services import Services
from server.edge.disconnect import unless_disconnected
from server.jobs.feed import Feed, Preview
from server.jobs.job import State
from server.jobs.work import Work

_PROGRESS_S = 0.1  # at most so often is progress told
_EVENTS = {"edits": "image_edit"}  # by route; every other is image_generation


async def streamed(services: Services, request: Request, submission: Submission, work: Work[Outcome]) -> EventStream:
    """The response, once nothing but the drawing can fail. Raises what stands against that."""
    feed = Feed()
    attendance = contextlib.ExitStack()
    try:
        attendance.enter_context(work.attended())
        attendance.enter_context(work.job.feeding(feed))  # already: the first preview may come any moment
        await unless_disconnected(request, work.until_ready())
    except BaseException:
        attendance.close()
        raise
    return EventStream(_Story(services, submission, work, feed).events(), attendance)


class _Story:
    """One job, told to one reader."""

    def __init__(self, services: Services, submission: Submission, work: Work[Outcome], feed: Feed) -> None:
        self._jobs = services.jobs
        self._fields = submission.fields
        self._kind = _EVENTS.get(submission.route, "image_generation")
        self._work = work
        self._job = work.job
        self._feed = feed
        self._told: tuple[Any, ...] | None = None
        self._told_s = -_PROGRESS_S  # monotonic

    async def events(self) -> Events:
        async with contextlib.aclosing(self._on_the_way()) as chunks:
            async for chunk in chunks:
                yield chunk
        outcome = await self._work.outcome()
        for index, item in enumerate(outcome.items):
            yield await event(f"{self._kind}.completed", _completed(outcome, index, item))

    async def _on_the_way(self) -> Events:
        """Until the job has ended: what there is to tell, and a sign of life where there is nothing."""
        spoke_s = time.monotonic()
        while True:
            ended = self._job.ended.is_set()  # before the last look: what came until then is told
            while (preview := self._feed.next_preview()) is not None:
                yield await event(f"{self._kind}.partial_image", self._partial(preview))
                spoke_s = time.monotonic()
            if self._fields.stream_progress and (news := self._news(ended)):
                yield await event("darkroom.progress", news)
                spoke_s = time.monotonic()
            if ended:
                return
            patience_s = spoke_s + KEEP_ALIVE_S - time.monotonic()
            if patience_s <= 0:
                yield KEEP_ALIVE
                spoke_s = time.monotonic()
                continue
            # A place in the queue changes without a word to those who stand there.
            await self._feed.wait(min(patience_s, _PROGRESS_S) if self._fields.stream_progress else patience_s)

    def _news(self, ended: bool) -> dict[str, Any] | None:
        """How far it is, if that is not what was told last, or was told a moment ago."""
        now = time.monotonic()
        standing = self._jobs.standing(self._job)
        state, place, eta_s = standing.state, standing.place, standing.eta_s
        if ended:
            if state is not State.DONE:
                return None
            state, place, eta_s = State.RUNNING, 0, 0.0  # the last step, which may have been too soon to tell
        shown = (state, place, standing.done, standing.of)
        if shown == self._told or (now - self._told_s < _PROGRESS_S and not ended):
            return None
        self._told, self._told_s = shown, now
        return {
            "job": self._job.id,
            "state": str(state),
            "place": place,
            "eta_s": eta_s,
            "done": standing.done,
            "of": standing.of,
        }

    def _partial(self, preview: Preview) -> dict[str, Any]:
        return {
            "b64_json": preview.picture.data,
            "created_at": int(time.time()),
            "size": self._job.size,
            "quality": self._fields.quality,
            "background": background(preview.picture.transparent),
            "output_format": self._fields.output_format,
            "partial_image_index": preview.number,
            "index": preview.picture.index,
            "seed": preview.picture.seed,
        }


def _completed(outcome: Outcome, index: int, item: Item) -> dict[str, Any]:
    return {
        **item_fields(item),
        "created_at": int(time.time()),
        "size": outcome.size,
        "quality": outcome.quality,
        "background": item.background,
        "output_format": outcome.output_format,
        "index": index,
        "usage": outcome.usage_of_one,
    }
