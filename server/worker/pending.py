"""A drawing that the worker has, and who waits for it. Knows nothing of processes or sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.plan import ModelPlan
from pipelines.spec import Picture
from server.errors import DarkroomError
from server.worker import protocol


@dataclass
class Pending:
    """Between its message to the worker and the worker's last about it."""

    plan: ModelPlan
    model: str  # the ID asked for
    result: asyncio.Future[protocol.Finished]
    progress: Callable[[int, int], None]  # steps done, of so many
    previewed: Callable[[int, Picture], None]

    def end(self, result: protocol.Finished | DarkroomError) -> None:
        """Tell who waits, unless the client has left."""
        if self.result.done():
            return
        if isinstance(result, DarkroomError):
            self.result.set_exception(result)
        else:
            self.result.set_result(result)
