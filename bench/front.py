"""Where does one front end? What a picture costs it, with ever more devices that draw on paper.

    python -m bench.front                        # 2 minutes on two quiet cores; writes bench/out/front.md
    python -m bench.front --devices 1,100 --seconds 20

The server is the real one, and so are its sockets; only what draws is not (bench/paper.py): each worker is a process
without torch, which takes a second for a picture (`--draw-s`), tells of twenty steps, and sends 1.2 MB, as a real
1024×1024 PNG has. So many clients ask as keep all devices at work, two for each. CPU time is that of the front alone,
from the system's books, as is its memory; a front is one thread for the most part, and ends where a second of it is
full.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench import paper, tables
from tests.running import ROOT, Running, start


def measured(devices: int, seconds: float, answer: str, draw_s: float, folder: Path) -> tuple[str, ...]:
    """One row of the table."""
    named = ",".join(["cpu"] * devices)
    settings: dict[str, Any] = {"devices": named, "running_jobs": 2, "queue_size": 4 * devices, "threads": 1}
    environment = {"PYTHONPATH": str(ROOT), paper.DRAW_S: str(draw_s)}
    with start(folder, module="bench.paper", environment=environment, **settings) as running:
        _ask(running, 2 * devices, 2 * draw_s + 1, answer)  # warm
        front = psutil.Process(running.process.pid)
        before, began = sum(front.cpu_times()[:2]), time.monotonic()
        took = _ask(running, 2 * devices, seconds, answer)
        cpu_s, wall_s = sum(front.cpu_times()[:2]) - before, time.monotonic() - began
        memory = front.memory_info().rss / 1e6
    rate = len(took) / wall_s
    late = [each - 2 * draw_s for each in took]  # behind one other at each device
    return (
        str(devices),
        answer,
        f"{rate:.1f}",
        f"{1000 * cpu_s / len(took):.1f}",
        f"{cpu_s / wall_s:.0%}",
        f"{len(took) / cpu_s:.0f}",
        f"{1000 * tables.median(late):.0f} / {1000 * tables.percentile(late, 95):.0f}",
        f"{memory:.0f}",
    )


def _ask(running: Running, clients: int, seconds: float, answer: str) -> list[float]:
    """The seconds that each answer took, of so many clients that ask again and again."""
    until = time.monotonic() + seconds
    took: list[float] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=running.url, timeout=120, trust_env=False) as client:
            body = {"prompt": f"a red apple, {number}", "size": "1024x1024", "response_format": answer}
            while time.monotonic() < until:
                began = time.monotonic()
                client.post("/v1/images/generations", json=body).raise_for_status()
                took.append(time.monotonic() - began)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1,8,32,64", help="how many, a row each (default: 1,8,32,64)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each row (default: 15)")
    parser.add_argument("--draw-s", type=float, default=1.0, help="what a picture takes on paper (default: 1 s)")
    arguments = parser.parse_args()
    rows = []
    for count in map(int, arguments.devices.split(",")):
        for answer in ("url", "b64_json"):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(count, arguments.seconds, answer, arguments.draw_s, Path(folder)))
                print(rows[-1], flush=True)
    head = (
        "devices",
        "answer",
        "pictures/s",
        "front's CPU, ms a picture",
        "of a core",
        "pictures/s of a full core",
        "later than the device, ms p50 / p95",
        "front's memory, MB",
    )
    tables.publish("front", "## Where one front ends", tables.table(head, rows))


if __name__ == "__main__":
    main()
