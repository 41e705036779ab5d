"""The servers that suites ask: one of their own, with a data folder of its own, or one that runs already."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from server.settings import API_KEY_VARIABLE
from tests import running

PAPER = "tests.reliability.paper_server"  # draws blank paper at once
REAL = "server"  # the embedded model, in a worker


@dataclass(frozen=True)
class Target:
    """A server that may be asked. Plain values, so that it can be given to other processes."""

    url: str
    key: str | None

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass
class Started:
    """A server of a suite's own."""

    target: Target
    running: running.Running | None  # None: somebody else's server

    def front_mib(self) -> float:
        """The memory of the front; 0 if it is somebody else's."""
        if self.running is None:
            return 0.0
        return float(psutil.Process(self.running.process.pid).memory_info().rss) / 2**20

    def unforeseen(self) -> list[str]:
        """The exceptions in the log that nobody foresaw: each kind, and where it came from."""
        if self.running is None:
            return []
        found = [json.loads(line)["message"].split("\n") for line in self.running.lines if "unforeseen" in line]
        return sorted({f"{first} …{'; '.join(frames[-3:])}" for first, *frames in found})

    def down(self) -> bool:
        return self.running is not None and self.running.process.poll() is not None


@contextlib.contextmanager
def open_server(
    url: str | None = None, *, module: str = PAPER, environment: dict[str, str] | None = None, **settings: Any
) -> Iterator[Started]:
    """The server at ``url`` (its key: DARKROOM_API_KEY), or a new one with a key on a free port, stopped at the end."""
    if url is not None:
        yield Started(Target(url.rstrip("/"), os.environ.get(API_KEY_VARIABLE)), None)
        return
    with tempfile.TemporaryDirectory(prefix="darkroom-reliability-") as folder:
        chosen = {"log_level": "warning", **settings}
        with running.start(Path(folder), keys=True, module=module, environment=environment, **chosen) as started:
            yield Started(Target(started.url, started.key), started)
            if started.process.poll() is None:
                started.stop()
