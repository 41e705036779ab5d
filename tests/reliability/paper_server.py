"""The server as a process, with a worker that draws blank paper: all of the front, a real socket, no torch.

Run as ``python -m tests.reliability.paper_server serve ...``, with the flags of ``darkroom serve``. A prompt that
begins with ``paper:SECONDS`` holds its job so long, so that there is something to wait for and to cancel.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from pipelines.plan import Drawing
from pipelines.spec import Encoding, Picture
from server.cli import main
from server.worker import protocol
from tests.paper import PaperWorker
from tests.reliability import scripted_network

_HOLD = re.compile(r"paper:([0-9.]{1,6})\b")
_MAX_HOLD_S = 5.0


class HoldingPaperWorker(PaperWorker):
    """Draws blank paper as late as the prompt says. Remembers nothing: it is asked a hundred thousand times."""

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Callable[[int, int], None],
        previewed: Callable[[int, Picture], None] = lambda number, picture: None,
        deadline_s: float = math.inf,
    ) -> protocol.Finished:
        hold = _HOLD.match(drawing.spec.prompt)
        if hold is not None:
            await asyncio.sleep(min(_MAX_HOLD_S, float(hold[1])))
        try:
            return await super().draw(drawing, encoding, progress, previewed, deadline_s)
        finally:
            self.drawings.clear()
            self.encodings.clear()
            self.cancelled.clear()


if __name__ == "__main__":
    if scripted_network.VARIABLE in os.environ:
        scripted_network.install(Path(os.environ[scripted_network.VARIABLE]))
    nobody = patch("server.commands.early.workers", lambda settings: contextlib.nullcontext())
    with patch("server.app.LocalWorker", HoldingPaperWorker), nobody:
        main()
