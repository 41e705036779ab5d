"""The stream: the answer with ``stream: true``, with previews, progress and finished pictures as they come.

Knows the names and fields of events, and what its reader has been sent; knows nothing of sockets.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from fastapi import Request

from server.api.events import KEEP_ALIVE, KEEP_ALIVE_S, Events, EventStream, event
from server.api.outcome import Item, Outcome, background
from server.api.services import Services
from server.api.submission import Submission
from server.edge.body import hold_of
from server.edge.disconnect import unless_disconnected
from server.jobs.admission import Admitted
from server.jobs.budget import Hold
from server.jobs.feed import Feed, Preview
from server.jobs.job import State
from server.jobs.work import Work

_PROGRESS_INTERVAL_S = 0.1  # progress events are at least this far apart
_EVENTS = {"edits": "image_edit"}  # by route; every other is image_generation


async def streamed(
    services: Services, request: Request, submission: Submission, admitted: Admitted[Outcome]
) -> EventStream:
    """The response, once only the drawing can fail. Raises every error that comes before."""
    work = admitted.work
    hold: Hold | None = hold_of(request.scope)
    feed = Feed(hold=hold)
    subscription = contextlib.ExitStack()
    try:
        subscription.enter_context(work.waiter())
        subscription.enter_context(work.job.feeding(feed))  # already: the first preview may come any moment
        await unless_disconnected(request, work.until_ready())
        if work.succeeded:  # a repeat: there must be room for its pictures before its headers go out
            hold_of(request.scope).take(_unsent(await work.outcome()), owed=admitted.first)
            hold = None
    except BaseException:
        subscription.close()
        raise
    return EventStream(_JobEvents(services, submission, work, feed, hold).stream(), subscription)


class _JobEvents:
    """The events of one job for one reader."""

    def __init__(
        self, services: Services, submission: Submission, work: Work[Outcome], feed: Feed, hold: Hold | None
    ) -> None:
        self._jobs = services.jobs
        self._fields = submission.fields
        self._kind = _EVENTS.get(submission.route, "image_generation")
        self._work = work
        self._job = work.job
        self._feed = feed
        self._hold = hold  # where what is finished is still to be taken
        self._last_shown: tuple[Any, ...] | None = None  # of progress
        self._last_shown_s = -_PROGRESS_INTERVAL_S  # monotonic

    async def stream(self) -> Events:
        async with contextlib.aclosing(self._until_ended()) as chunks:
            async for chunk in chunks:
                yield chunk
        outcome = await self._work.outcome()
        if self._hold is not None:  # the headers are out: the pictures are owed
            self._hold.take(_unsent(outcome), owed=True)
        for index, item in enumerate(outcome.items):
            yield await event(f"{self._kind}.completed", _completed(outcome, index, item))

    async def _until_ended(self) -> Events:
        """Previews and progress until the job has ended, and a comment where there has been nothing for a while."""
        sent_s = time.monotonic()
        while True:
            ended = self._job.ended.is_set()  # before the last look: what came until then is sent
            while (preview := self._feed.next_preview()) is not None:
                yield await event(f"{self._kind}.partial_image", self._partial(preview))
                sent_s = time.monotonic()
            if self._fields.stream_progress and (progress := self._progress(ended)):
                yield await event("darkroom.progress", progress)
                sent_s = time.monotonic()
            if ended:
                return
            wait_s = sent_s + KEEP_ALIVE_S - time.monotonic()
            if wait_s <= 0:
                yield KEEP_ALIVE
                sent_s = time.monotonic()
                continue
            # A place in the queue changes without a notice to the jobs that wait there.
            await self._feed.wait(min(wait_s, _PROGRESS_INTERVAL_S) if self._fields.stream_progress else wait_s)

    def _progress(self, ended: bool) -> dict[str, Any] | None:
        """How far the job is. None if the last event said the same, or was sent a moment ago."""
        now = time.monotonic()
        standing = self._jobs.standing(self._job)
        state, place, eta_s = standing.state, standing.place, standing.eta_s
        if ended:
            if state is not State.DONE:
                return None
            state, place, eta_s = State.RUNNING, 0, 0.0  # the last step, which may have come too soon after another
        shown = (state, place, standing.done, standing.of)
        if shown == self._last_shown or (now - self._last_shown_s < _PROGRESS_INTERVAL_S and not ended):
            return None
        self._last_shown, self._last_shown_s = shown, now
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


def _unsent(outcome: Outcome) -> int:
    """The pictures, which wait for their events, and the largest event on its way to a slow reader."""
    return outcome.size_bytes + 2 * max((len(item.data or b"") for item in outcome.items), default=0)


def _completed(outcome: Outcome, index: int, item: Item) -> dict[str, Any]:
    return {
        **item.fields(),
        "created_at": int(time.time()),
        "size": outcome.size,
        "quality": outcome.quality,
        "background": item.background,
        "output_format": outcome.output_format,
        "index": index,
        "usage": outcome.usage_of_one,
    }
