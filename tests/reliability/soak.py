"""Everything that clients do, for hours: does memory grow, do descriptors, is a picture lost or doubled?

    python -m tests.reliability.soak --minutes 30
    python -m tests.reliability.soak --minutes 240

Memory of the front and the worker is sampled under load, every ten seconds; after the warm-up it counts. Every minute
the load pauses: then descriptors are counted, permits must be back, and the server must have made as many pictures as
clients were given. A run that goes on after a break has a new server, so it warms up anew; its slope is that of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.reliability.asks import DRAWN, REFUSED, Mix, drawn
from tests.reliability.journal import Bar, Journal, parser, progress
from tests.reliability.lives import House, quiet_descriptors, tracebacks
from tests.reliability.load import Load
from tests.reliability.probe import Probe, bar
from tests.reliability.trend import trend
from tests.reliability.wire import Closed, bearer, exchange, request_bytes

SAMPLE_S = 10.0
MAX_SLOPE = 5.0  # MB an hour
LONG_MINUTES = 200  # after the warm-up; in less, noise alone may look like such a slope
MB = 1e6


class Extras:
    """What the load's clients do not do: repeat with an Idempotency-Key, and cancel."""

    def __init__(self, house: House, seed: str) -> None:
        self._house = house
        self._rng = random.Random(seed)
        self.pictures = 0  # that were drawn for repeats, and given twice
        self.cancelled = 0
        self.faults: list[str] = []

    async def run(self) -> None:
        for work in (self._repeat, self._cancel):
            try:
                await work()
            except (OSError, Closed, TimeoutError, ValueError, KeyError) as error:
                self.faults.append(f"{work.__name__}: {type(error).__name__}")

    async def _repeat(self) -> None:
        """One drawing, the same answer to all three: to two at once, and to one afterwards."""
        ask = drawn("b64", self._rng, steps=4)
        headers = {**ask.headers, **bearer(self._house.key), "idempotency-key": f"soak-{self._rng.randrange(2**60)}"}
        request = request_bytes(ask.method, ask.path, body=ask.body, headers=headers)
        answers = await asyncio.gather(*(exchange(self._house.port, request, timeout_s=300) for _ in range(2)))
        answers.append(await exchange(self._house.port, request, timeout_s=300))
        self.pictures += len(ask.seeds)
        if {answer.status for answer in answers} != {200}:
            self.faults.append(f"repeats: {[answer.status for answer in answers]}")
        elif len({json.dumps(answer.json()["data"]) for answer in answers}) != 1:
            self.faults.append("repeats with different pictures")

    async def _cancel(self) -> None:
        ask = drawn("b64", self._rng, steps=100, n=1)
        job = f"soak-{self._rng.randrange(2**60):x}"
        headers = {**ask.headers, **bearer(self._house.key), "x-job-id": job}
        request = request_bytes(ask.method, ask.path, body=ask.body, headers=headers)
        cancel = request_bytes("DELETE", f"/v1/images/jobs/{job}", headers=bearer(self._house.key))
        waiting = asyncio.create_task(exchange(self._house.port, request, timeout_s=300))
        while not waiting.done():
            await asyncio.sleep(self._rng.uniform(0.05, 0.3))
            if (await exchange(self._house.port, cancel, timeout_s=300)).status == 200:
                break
        status = (await waiting).status
        self.cancelled += status == 409
        if status != 409:
            self.faults.append(f"a cancelled job: {status}")


def main() -> int:
    options_parser = parser(__doc__, time_limit_s=18000)
    options_parser.add_argument("--minutes", type=float, default=30, help="of load, warm-up included (default: 30)")
    options_parser.add_argument("--warm-up-minutes", type=float, default=10, help="that do not count (default: 10)")
    options_parser.add_argument("--clients", type=int, default=4, help="clients at a time (default: 4)")
    options_parser.add_argument("--steps", type=int, default=6, help="most steps of a picture (default: 6)")
    options = options_parser.parse_args()
    journal = Journal("soak", options)
    minutes = round(options.minutes)
    segment = 1 + max((row["segment"] for row in journal.rows), default=-1)
    mix = Mix(options.seed + segment, DRAWN + REFUSED, steps=(1, options.steps))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, progress() as shown:
        house = House(Path(folder))
        bar_ = shown.add_task("minutes", total=minutes, completed=len(journal.rows))
        with (
            house.life(url_lifetime_s=300) as running,  # so that pictures also expire
            Probe(house.port) as probe,
            Load(house.port, house.key, mix, clients=options.clients) as load,
        ):
            extras = Extras(house, f"soak-{options.seed}-{segment}")
            began_s = time.monotonic()
            while len(journal.rows) < minutes and not journal.out_of_time:
                row = _minute(house, running.process.pid, load, extras, began_s)
                row["faults"] += probe.faults() + tracebacks(running)
                running.lines.clear()
                journal.add(segment=segment, **row, **probe.take())
                shown.advance(bar_)
    return _end(journal, options.warm_up_minutes, whole=len(journal.rows) >= minutes)


def _minute(house: House, front: int, load: Load, extras: Extras, began_s: float) -> dict[str, Any]:
    """A minute of load, and what is left of it."""
    outcomes = Counter(load.outcomes)
    worker = _worker(front)
    samples: list[tuple[float, float, float]] = []
    thread = threading.Thread(target=lambda: asyncio.run(extras.run()), daemon=True)
    deadline = time.monotonic() + 60
    load.go_on()
    thread.start()
    while (rest := deadline - time.monotonic()) > 0:
        time.sleep(min(SAMPLE_S, rest))
        samples.append((time.monotonic() - began_s, _mb(front), _mb(worker)))
    load.pause()
    thread.join(300)
    faults = load.take_faults() + extras.faults
    extras.faults = []
    if held := house.permits_after():
        faults.append(f"permits leaked: {held}")
    if _worker(front) != worker:
        faults.append("the worker was replaced")
    metrics = house.metrics()
    made = round(metrics.sum("darkroom_pictures_total"))
    if made != load.pictures + extras.pictures:
        faults.append(f"pictures made {made}, given {load.pictures + extras.pictures}")
    if metrics.server_faults:
        faults.append(f"answers of 500 and more: {metrics.server_faults}")
    return {
        "samples": [[round(figure, 2) for figure in sample] for sample in samples],
        "descriptors": [quiet_descriptors(front), quiet_descriptors(worker)],
        "pictures": made,
        "cancelled": extras.cancelled,
        "outcomes": dict(load.outcomes - outcomes),
        "faults": faults,
    }


def _worker(front: int) -> int:
    for child in psutil.Process(front).children():
        with contextlib.suppress(psutil.Error):
            if "server.worker.child" in child.cmdline():
                return child.pid
    return -1


def _mb(pid: int) -> float:
    """Resident memory."""
    with contextlib.suppress(psutil.Error, ValueError):
        return psutil.Process(pid).memory_info().rss / MB
    return 0.0


def _end(journal: Journal, warm_up_minutes: float, *, whole: bool) -> int:
    counted = [row for row in journal.rows if row["samples"][0][0] >= warm_up_minutes * 60 - SAMPLE_S]
    outcomes: Counter[str] = Counter()
    for row in journal.rows:
        outcomes.update(row["outcomes"])
    counts = [f"{len(journal.rows)} minutes, {outcomes.total()} requests"]
    counts.append(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    bars: list[Bar] = []
    for column, process in enumerate(("front", "worker")):
        segments = _by_segment(counted, column + 1)
        memory = [figure for segment in segments for _, figure in segment]
        found = trend(segments)
        counts.append(f"{process} {statistics.fmean(memory) if memory else 0:.0f} MB, slope {found.slope:+.2f} MB/h")
        if process == "front" and len(counted) >= LONG_MINUTES:
            bars.append(Bar("95 % upper bound of the front's slope", found.upper, MAX_SLOPE, " MB/h"))
        else:
            counts.append(f"its 95 % upper bound {found.upper:+.2f} MB/h")
        bars.append(Bar(f"descriptors that the {process} gained", _gained(counted, column), 0))
    return journal.end("; ".join(counts), [*bars, bar(journal)], whole=whole)


def _by_segment(rows: list[dict[str, Any]], column: int) -> list[list[tuple[float, float]]]:
    """(hours, MB) of each minute: the mean of its samples."""
    found: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        hours = statistics.fmean(sample[0] for sample in row["samples"]) / 3600
        found.setdefault(row["segment"], []).append((hours, statistics.fmean(s[column] for s in row["samples"])))
    return list(found.values())


def _gained(rows: list[dict[str, Any]], column: int) -> int:
    """From the first minute after the warm-up to the last; the most of any segment."""
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(row["segment"], []).append(row["descriptors"][column])
    return max((counts[-1] - counts[0] for counts in found.values()), default=0)


if __name__ == "__main__":
    sys.exit(main())
