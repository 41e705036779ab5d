"""A server inside this process, without a socket: for ``--local``.

Knows how to run the application and hand it requests; the same routes, queue and worker as ``darkroom serve``. Its
data folder is temporary: it has no keys, and keeps nothing.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from server.agents.in_process import InProcess
from server.commands import early
from server.settings import Settings

_HOST = "127.0.0.1"
URL = f"http://{_HOST}"


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[httpx.AsyncBaseTransport]:
    """Run the application until the block ends. Raises ConfigError for settings that it cannot run with."""
    log = logging.getLogger("darkroom")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what goes wrong is in the answers
    try:
        with tempfile.TemporaryDirectory(prefix="darkroom-local-") as folder:
            own: dict[str, Any] = {"data_dir": Path(folder), "host": _HOST, "public_url": None, "log_level": "error"}
            own |= {"store": "local", "cluster": None}  # this machine draws, and nobody would connect a cluster
            chosen = settings.model_copy(update=own)
            with early.workers(chosen) as begun:
                from server.app import create_app  # its imports take their time beside the worker's

                app = create_app(chosen, begun)
                async with app.router.lifespan_context(app):
                    yield InProcess(app)
    finally:
        log.setLevel(level)
