"""How long does a refusal take while the queue is full and a worker draws beside it?

    python -m bench.impatient        # a minute; writes bench/out/impatient.md

A server of its own with the embedded model and a short queue, which clients keep full with long drawings. So many
others ask again the moment that they are refused, and a few ask for /livez in the same way: what a refusal takes more
than that is its own. Nobody heeds Retry-After, which would leave most of the time idle.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bench import tables
from tests.running import start

BAR_S = 0.050  # the 99th percentile of refusals above that of /livez
QUEUE = 4
PROBES = 10  # who ask for /livez
LIVEZ, REFUSED = "GET /livez", "POST, refused with 429"


class Client:
    """One connection that asks again and again."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.close()

    async def ask(self, request: bytes) -> int:
        """The status of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        await self._reader.readexactly(length)
        return int(head.split(b" ", 2)[1])


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


def post(**fields: object) -> bytes:
    body = json.dumps({"prompt": "a red apple", **fields}).encode()
    head = "POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def again_and_again(port: int, request: bytes, status: int, latencies: list[float], pause_s: float) -> None:
    """Ask until cancelled; the times of answers with this status are kept."""
    async with Client(port) as client:
        while True:
            began = time.perf_counter()
            if await client.ask(request) == status:
                latencies.append(time.perf_counter() - began)
            await asyncio.sleep(pause_s)


async def load(port: int, clients: int, seconds: float, pause_s: float) -> dict[str, list[float]]:
    """Seconds of answers, by kind; of the second half of the time, when all are at it."""
    found: dict[str, list[float]] = defaultdict(list)
    long, short = post(n=10, quality="hd", response_format="url"), post()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(again_and_again(port, long, 200, [], 0.05)) for _ in range(2 * QUEUE)]
        await asyncio.sleep(1.0)
        tasks += [group.create_task(again_and_again(port, short, 429, found[REFUSED], pause_s)) for _ in range(clients)]
        tasks += [group.create_task(again_and_again(port, get("/livez"), 200, found[LIVEZ], 0)) for _ in range(PROBES)]
        await asyncio.sleep(seconds / 4)
        for latencies in found.values():
            latencies.clear()
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help="that are refused (default: 200)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which they ask (default: 20)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between refusal and repeat (default: 0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder, contextlib.ExitStack() as stack:
        running = stack.enter_context(start(Path(folder), queue_size=QUEUE, devices="cpu"))
        found = asyncio.run(load(running.port, arguments.clients, arguments.seconds, arguments.pause))
        drawn = running.metric("darkroom_device_steps_total")
    rows = [
        (
            name,
            f"{len(latencies) / arguments.seconds:.0f}",
            *(f"{1e3 * tables.percentile(latencies, percent):.1f}" for percent in (50, 95, 99)),
        )
        for name, latencies in found.items()
    ]
    refused, livez = (tables.percentile(found[name], 99) for name in (REFUSED, LIVEZ))
    tables.publish(
        "impatient",
        f"## {arguments.clients} clients at a full queue",
        f"{PROBES} clients ask for /livez meanwhile, and a worker draws ({drawn:.0f} steps of runs). Milliseconds.",
        tables.table(("", "a second", "median", "p95", "p99"), rows),
        f"p99 of a refusal ÷ that of /livez: {refused / livez:.2f}, and {1e3 * (refused - livez):.0f} ms above it; the"
        f" bar: {1e3 * BAR_S:.0f} ms.",
    )


if __name__ == "__main__":
    main()
