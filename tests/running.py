"""The server as a user starts it: a process of its own, on a real socket, with its log kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 150.0  # machines that run tests are busy, and a worker imports torch
T = TypeVar("T")


def eventually(probe: Callable[[], T | None], *, within_s: float = 60.0, every_s: float = 0.05) -> T:
    """The first true answer of ``probe``. Fails when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"no true answer within {within_s} s; the last was {answer!r}"
        time.sleep(every_s)


@dataclass
class Running:
    """A server process. ``lines`` is its log, as far as it has been written."""

    process: subprocess.Popen[str]
    data_dir: Path
    key: str | None = None
    lines: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def client(self, **options: Any) -> httpx.Client:
        options = {"headers": self.headers, "timeout": 150, **options}
        # Plain HTTP: to read the authorities of TLS takes 25 ms of CPU time for each client.
        return httpx.Client(base_url=self.url, trust_env=False, verify=False, **options)

    def draw(self, **fields: Any) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/images/generations", json={"prompt": "a red apple", **fields})

    def metric(self, sample: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        with self.client() as client:
            text = client.get("/metrics").text
        rows = (row for family in text_string_to_metric_families(text) for row in family.samples)
        return sum(row.value for row in rows if row.name == sample and labels.items() <= row.labels.items())

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log
        with self.client() as client:
            return client.get("/readyz").status_code == 200

    def worker(self) -> psutil.Process | None:
        """The worker process that runs now."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if child.status() != psutil.STATUS_ZOMBIE and "server.worker.child" in child.cmdline():
                    return child
        return None

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def start(
    data_dir: Path,
    *,
    keys: bool = False,
    wait: bool = True,
    port: int = 0,
    wrapper: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    module: str = "server",
    within_s: float = START_TIMEOUT_S,
    **settings: Any,
) -> Iterator[Running]:
    """A server with these settings; ready, if ``wait``. Killed at the end if it still runs.

    ``module`` is what runs as the command: ``server``, or one that stands in for it. Port 0 takes a free one.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    chosen = {f"DARKROOM_{name.upper()}": str(value) for name, value in settings.items()}
    key = None
    if keys:
        from server.edge.keys import Keyring

        key = Keyring(data_dir / "keys.json").create("tester")
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-m", module, "serve", "--port", str(port), "--data-dir", str(data_dir)],
        stdout=subprocess.DEVNULL,  # nothing of it may keep the pipe of whoever runs the tests open
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**clean, **chosen, **(environment or {})},
        process_group=0,
    )
    running = Running(process, data_dir, key)
    reader = threading.Thread(target=_read, args=(running,), daemon=True)
    reader.start()
    try:
        eventually(lambda: running.url or process.poll() is not None, within_s=within_s)
        assert running.url, running.log
        if wait:
            eventually(running.ready, within_s=within_s, every_s=0.2)
        yield running
    finally:
        if process.poll() is None:
            _kill_group(process.pid)
        process.wait()
        reader.join(60)  # a worker ends by itself when its front has gone, and keeps the pipe open until then
        _kill_group(process.pid)
        reader.join(60)
        assert not reader.is_alive(), "something holds the pipe: closing it now would wait for ever, past any timeout"
        if process.stderr is not None:
            process.stderr.close()


def _kill_group(number: int) -> None:
    """Kill what is left of the process group: the server, its workers, and theirs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)


def _read(running: Running) -> None:
    assert running.process.stderr is not None
    for line in running.process.stderr:
        running.lines.append(line)
        match = re.search(r"listens on (https?://\S+)", line)
        if match:
            running.url = match[1]
