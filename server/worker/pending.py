"""A drawing that the worker has, and who waits for it. Knows nothing of processes or sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.plan import ModelPlan
from pipelines.spec import Picture
from server.errors import DarkroomError
from server.telemetry import Metrics
from server.worker import failures, protocol
from server.worker.member import Spent
from server.worker.status import ModelStatuses

OfDrawing = protocol.Started | protocol.Progress | protocol.Previewed | protocol.Finished | protocol.Failed


def note_spent(message: OfDrawing, metrics: Metrics, device: str, on_spent: Spent) -> None:
    """Count what a drawing has taken of a device; of one whose client has left, too, for it was done."""
    if isinstance(message, protocol.Progress):
        metrics.stepped(device, message.news)
    if isinstance(message, protocol.Progress | protocol.Finished | protocol.Failed):
        on_spent(message.job_id, message.computed, message.device_s)


@dataclass
class Pending:
    """Between its message to the worker and the worker's last about it."""

    plan: ModelPlan
    model: str  # the ID asked for
    result: asyncio.Future[protocol.Finished]
    progress: Callable[[int, int], None]  # steps done, of so many
    previewed: Callable[[int, Picture], None]
    started: bool = False  # the worker has come to it

    def forget(self) -> None:
        """Nobody waits any more: what it may have ended with is no news to anybody."""
        if not self.result.cancel() and not self.result.cancelled():
            self.result.exception()

    def end(self, result: protocol.Finished | DarkroomError) -> None:
        """Tell who waits, unless the client has left."""
        if self.result.done():
            return
        if isinstance(result, DarkroomError):
            self.result.set_exception(result)
        else:
            self.result.set_result(result)


class Pendings(dict[str, Pending]):
    """All that one worker has, by the ID of the job. Messages about others are of clients that have left."""

    def draws(self, models: ModelStatuses) -> bool:
        """Is anything drawn whose model need not be loaded first?"""
        return any(models.may_draw(pending.plan) for pending in self.values())

    def lose(self, models: ModelStatuses) -> set[str]:
        """The worker has ended, and all with it. Returns the keys of the models that were wanted."""
        for pending in self.values():
            pending.end(failures.lost(begun=models.is_ready(pending.plan), started=pending.started))
        wanted = {pending.plan.key for pending in self.values() if models.serves(pending.plan)}
        self.clear()
        return wanted

    def hear(self, message: OfDrawing) -> None:
        """Pass on what the worker says of a drawing."""
        pending = self.get(message.job_id)
        if pending is None:
            return
        match message:
            case protocol.Started():
                pending.started = True
            case protocol.Progress(_, done, of):
                pending.progress(done, of)
            case protocol.Previewed(_, number, picture):
                pending.previewed(number, picture)
            case protocol.Finished(job_id):
                del self[job_id]
                pending.end(message)
            case protocol.Failed(job_id, kind, reason):
                del self[job_id]
                pending.end(failures.failed(kind, reason, job_id, pending.model))
