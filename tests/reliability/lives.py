"""A server's lives on one port and one data folder, and what it has left there.

Knows processes, files and the log; knows nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from server.edge.keys import Keyring
from server.storage import atomic
from tests.pictures import parameters
from tests.reliability.asks import Wrong, judge_picture
from tests.reliability.wire import HOST, Metrics, get
from tests.running import Running, eventually, start

# One thread for torch: OpenMP threads that wait for each other on shared cores make every figure worse.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
PERMITS_RETURN_S = 15.0
READY_S = 600.0  # beside much other work a worker's start has taken minutes


class House:
    """A data folder, a port and a key, for servers that follow each other."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder
        with socket.create_server((HOST, 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.key = Keyring(folder / "keys.json").create("tester")
        self._keys = self.keys_file.read_bytes()

    @property
    def keys_file(self) -> Path:
        return self.data_dir / "keys.json"

    @property
    def keys_intact(self) -> bool:
        return self.keys_file.read_bytes() == self._keys

    @property
    def pictures(self) -> Path:
        return self.data_dir / "pictures"

    @contextlib.contextmanager
    def life(
        self,
        *,
        wait: bool = True,
        port: int | None = None,
        wrapper: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> Iterator[Running]:
        """One server, from its start to its end; killed at the end if it still runs.

        ``port`` is for a second one beside the first: 0 takes a free one.
        """
        port = self.port if port is None else port
        settings = {"log_level": "warning", **settings}
        environment = {**ENVIRONMENT, **(environment or {})}
        with start(
            self.data_dir, wait=False, port=port, wrapper=wrapper, environment=environment, **settings
        ) as running:
            running.key = self.key
            if wait:
                self.ready(running)
            yield running

    def ready(self, running: Running, *, after: int | None = None) -> psutil.Process:
        """The worker that made the server ready, another than ``after``."""

        def look() -> psutil.Process | None:
            assert running.process.poll() is None, running.log
            worker = running.worker()
            if worker is None or worker.pid == after:
                return None
            with contextlib.suppress(OSError, http.client.HTTPException):
                return worker if get(running.port, "/readyz").status == 200 else None
            return None

        return eventually(look, within_s=READY_S, every_s=0.02)

    def metrics(self) -> Metrics:
        return Metrics.of(self.port, self.key)

    def permits_after(self, *, within_s: float = PERMITS_RETURN_S) -> int:
        """Permits still held, once all have returned or the time is over."""
        deadline = time.monotonic() + within_s
        while (held := self.metrics().permits) and time.monotonic() < deadline:
            time.sleep(0.1)
        return held

    def leftovers(self) -> set[str]:
        """Temporary files of any folder, and whatever else is no picture."""
        return {
            str(path.relative_to(self.data_dir))
            for path in self.data_dir.rglob("*")
            if path.is_file() and (atomic.target_of(path.name) or path.parent != self.pictures)
        }

    def half_written(self, *, older_than_s: float = 0.0) -> set[str]:
        """The names of half-written pictures, last written to so long ago."""
        found = set()
        for path in self.pictures.iterdir() if self.pictures.exists() else ():
            with contextlib.suppress(FileNotFoundError):  # it has just been written to its end
                if atomic.target_of(path.name) and time.time() - path.stat().st_mtime >= older_than_s:
                    found.add(path.name)
        return found

    def stored(self) -> set[str]:
        return {path.name for path in self.pictures.iterdir() if not atomic.target_of(path.name)}

    def torn(self, names: set[str]) -> list[str]:
        """What is wrong with stored pictures, by name."""
        found = []
        for name in names:
            data = (self.pictures / name).read_bytes()
            try:
                judge_picture(_seed(data), data)
            except Wrong as wrong:
                found.append(f"{wrong} in the store")
        return found


def _seed(data: bytes) -> int:
    try:
        return int(parameters(data)["seed"])
    except (OSError, SyntaxError, ValueError, KeyError):
        return -1  # which no picture has


def tracebacks(running: Running) -> list[str]:
    """The last lines of the exceptions in a server's log, and lines that are no log's."""
    found = []
    for line in running.lines:
        if line.startswith("Darkroom listens on "):
            continue
        try:
            record = json.loads(line)
        except ValueError:
            found.append(f"log: {line.strip()[:120]}")
            continue
        if "exception" in record:
            found.append(f"log: {record['message']}: {record['exception'].strip().splitlines()[-1][:120]}")
    return found


def quiet_descriptors(pid: int) -> int:
    """Without those of honest clients that come and go: the fewest of several looks."""
    found = [descriptors(pid)]
    for _ in range(12):
        time.sleep(0.025)
        found.append(descriptors(pid))
    return min(found)


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
