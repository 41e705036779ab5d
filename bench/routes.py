"""What does a request cost the front, of the CPU?

    python -m bench.routes            # half a minute; writes bench/out/routes.md

The application in this process, with all its layers and without a socket or a worker: requests go to it as ASGI
messages, of all kinds in turn, and the thread's own clock of CPU time is read. Each figure is also told as a multiple
of GET /livez, which does nothing else than pass the layers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import logging
import pstats
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import tables
from server.app import create_app
from server.settings import Settings
from server.telemetry import configure_logging

BAR = 2.0  # times /livez
AT_ONCE = 50  # requests of one kind, then the next kind has its turn


@dataclass(frozen=True)
class Kind:
    """A request, and what it is to be answered with."""

    name: str
    path: str
    status: int = 200
    body: bytes = b""

    @property
    def scope(self) -> dict[str, Any]:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST" if self.body else "GET",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [*headers, (b"content-length", b"%d" % len(self.body))] if self.body else headers,
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "state": {},
        }


KINDS = (
    Kind("GET /livez", "/livez"),
    Kind("GET /v1/models", "/v1/models"),
    Kind("GET /v1/models/ID", "/v1/models/darkroom-mini"),
    Kind("POST, and the queue is full", "/v1/images/generations", 429, json.dumps({"prompt": "a red apple"}).encode()),
)


async def ask(app: Any, kind: Kind) -> None:
    """Send a request and take its answer. Raises RuntimeError for one with another status."""
    statuses: list[int] = []
    messages = [{"type": "http.request", "body": kind.body, "more_body": False}]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(kind.scope, receive, send)
    if statuses != [kind.status]:
        raise RuntimeError(f"{kind.name}: {statuses}")


async def measure(app: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU a request, by kind: of this process, so that what is done on its other threads counts."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for kind in KINDS:
            began = time.process_time()
            for _ in range(AT_ONCE):
                await ask(app, kind)
            if number:  # the first warms up
                found[kind.name].append((time.process_time() - began) / AT_ONCE)
    return found


async def profile(app: Any, name: str) -> None:
    """Print where the time of one kind goes."""
    (kind,) = (kind for kind in KINDS if kind.name.endswith(name))
    profiler = cProfile.Profile()
    with profiler:
        for _ in range(20 * AT_ONCE):
            await ask(app, kind)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(60)


async def run(rounds: int, profiled: str | None) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder, contextlib.ExitStack() as permits:
        app = create_app(Settings(data_dir=Path(folder), devices="cpu", queue_size=1))
        permits.enter_context(app.state.services.queue.permit("somebody"))  # its only one
        if profiled:
            await profile(app, profiled)
            return {}
        return await measure(app, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="the median of so many is printed (default: 40)")
    parser.add_argument("--profile", metavar="KIND", help="print where the time of one kind goes instead")
    arguments = parser.parse_args()
    configure_logging("info", process="routes")
    with Path("/dev/null").open("w") as nowhere:  # the records are made as in service, and nobody reads them
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(nowhere)
        found = asyncio.run(run(arguments.rounds, arguments.profile))
    if not found:
        return
    least = tables.median(found[KINDS[0].name])
    rows = [
        (name, f"{1e3 * tables.median(values):.3f}", f"{tables.median(values) / least:.2f}")
        for name, values in found.items()
    ]
    tables.publish(
        "routes",
        "## What a request costs the front",
        f"Milliseconds of CPU, median of {arguments.rounds} times {AT_ONCE} requests, all kinds in turn, without the"
        f" socket. The bar of GET /v1/models: {BAR:g} times GET /livez.",
        tables.table(("", "ms", "÷ /livez"), rows),
    )


if __name__ == "__main__":
    main()
