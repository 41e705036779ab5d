"""A job's row, as every route that shows one writes it: of a job in memory, of one on the disk, or of both.

Knows what a row says; knows no routes.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from server.api.services import Services
from server.jobs.backlog import error_fields
from server.jobs.job import Job
from server.storage.async_jobs import AsyncJobRow, RowState, Telling

_STATUS = {RowState.WAITING: "queued", RowState.BEGUN: "running"}  # others have the same name
_EVENTS = {RowState.DONE: "image.job.done", RowState.FAILED: "image.job.failed"}


def row_of(services: Services, name: str, job: Job | None, kept: AsyncJobRow | None) -> dict[str, Any]:
    """The row of a job that is in memory, on the disk, or both."""
    if job is None:
        assert kept is not None
        return _of_kept(kept)
    standing = services.jobs.standing(job)
    shown = {
        "id": name,
        "object": "image.job",
        "status": str(standing.state),
        "created": job.created,
        "model": job.model,
        "n": job.n,
        "place": standing.place,
        "eta_s": standing.eta_s,
        "progress": {"done": standing.done, "of": standing.of},
        "error": None if job.error is None else error_fields(job.error),
    }
    if kept is not None and kept.state.ended:  # it may say more than the job: lost, where that says how
        shown["error"] = _error(kept)
    return shown if kept is None else shown | _beyond(kept)


def is_expired(kept: AsyncJobRow) -> bool:
    """Is it too late for the result?"""
    return kept.expires is not None and kept.expires <= time.time()


def event_body(kept: AsyncJobRow) -> bytes:
    """What a webhook is told: always the same for one job. Neither prompt nor pictures are in it."""
    ended = kept.ended or 0
    shown = _of_kept(kept)
    for field in ("webhook", "result_state"):  # they would change with every attempt, and with time
        del shown[field]
    body = {
        "object": "event",
        "id": event_id(kept),
        "type": _EVENTS.get(kept.state, "image.job.cancelled"),
        "created_at": ended,
        "timestamp": datetime.fromtimestamp(ended, UTC).isoformat().replace("+00:00", "Z"),
        "data": shown,
    }
    return msgspec.json.encode(body)


def event_id(kept: AsyncJobRow) -> str:
    return "evt_" + kept.key.removeprefix("job_")


def _of_kept(kept: AsyncJobRow) -> dict[str, Any]:
    return {
        "id": kept.name,
        "object": "image.job",
        "status": _STATUS.get(kept.state, str(kept.state)),
        "created": kept.created,
        "model": kept.model,
        "n": kept.n,
        "place": None,
        "eta_s": None,
        "progress": {"done": kept.steps_done, "of": kept.steps_of},
        "error": _error(kept),
        **_beyond(kept),
    }


def _beyond(kept: AsyncJobRow) -> dict[str, Any]:
    """What only rows of async jobs say."""
    if not kept.state.ended:
        state = "pending"
    elif kept.state is not RowState.DONE:
        state = "none"
    else:
        state = "gone" if is_expired(kept) else "ready"
    told = None
    if kept.telling is not Telling.NONE:
        told = {
            "state": str(kept.telling),
            "attempts": kept.attempts,
            "next": None if kept.due is None else int(kept.due),
            "last_status": kept.answered,
        }
    return {"result_state": state, "result_expires": kept.expires, "webhook": told}


def _error(kept: AsyncJobRow) -> dict[str, Any] | None:
    return None if kept.error is None else json.loads(kept.error)
