"""Workers and fronts killed with SIGKILL while clients ask: is every request answered once, and nothing torn?

    python -m tests.reliability.kills --worker 100 --front 100

Two servers side by side, each in a folder of its own, share the rounds. In each a server starts under load, its worker
is killed, and when it is ready again, the front: every other one at the moment when a picture is half written. The
first start of the worker is measured beside its replacement.

A half-written file may be somebody's who still writes: the server's sweeps, of which one is at its start, leave it
alone for a minute. One that a start finds older than that must be gone when the server is ready; in the end a last
server must sweep them all.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from server.storage import atomic
from tests.reliability.asks import Mix
from tests.reliability.journal import Bar, Journal, parser, progress, quantile
from tests.reliability.lives import House, tracebacks
from tests.reliability.load import Load
from tests.reliability.probe import Probe, bar
from tests.running import Running

KINDS = ("url", "url", "url", "b64", "edit", "mask", "stream", "stream_url", "hub")
# What a client may be told of a worker's death. That it was its own request's fault is not among them: it never was.
ALLOWED = frozenset({"worker_lost"})
MAX_RATIO = 1.2  # of a worker's replacement to its first start
WORKER_ENDS_S = 10.0
PAUSE_S = (0.2, 1.2)  # of load, before each kill
WRITING_S = 60.0  # for so long a sweep leaves a half-written file alone
LIFETIME_S = 86_400  # of pictures: none expires while a run goes on


def main() -> int:
    options_parser = parser(__doc__, time_limit_s=14400)
    options_parser.add_argument("--worker", type=int, default=100, help="workers to kill (default: 100)")
    options_parser.add_argument("--front", type=int, default=100, help="fronts to kill (default: 100)")
    options_parser.add_argument("--clients", type=int, default=2, help="clients that ask each server (default: 2)")
    options_parser.add_argument("--sides", type=int, default=2, help="servers side by side (default: 2)")
    options = options_parser.parse_args()
    journal = Journal("kills", options)
    rounds = max(options.worker, options.front)
    done = {row["number"] for row in journal.rows}
    waiting = deque(number for number in range(rounds) if number not in done)
    with progress() as shown, ThreadPoolExecutor(options.sides) as pool:
        bar_ = shown.add_task("rounds", total=rounds, completed=len(done))
        sides = [
            pool.submit(_side, side, options, journal, waiting, lambda: shown.advance(bar_))
            for side in range(options.sides)
        ]
        for side in sides:
            side.result()
    return _end(journal, whole=len(journal.rows) >= rounds)


def _side(
    side: int, options: argparse.Namespace, journal: Journal, waiting: deque[int], advance: Callable[[], None]
) -> None:
    """Rounds in one folder, as long as any wait. A worker starts on one core, for most of a round."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        house = House(Path(folder))
        mix = Mix(options.seed + side * 1_000_000, KINDS, steps=(1, 10))
        first = sum(row["asks"] for row in journal.rows)
        with (
            Probe(house.port) as probe,
            Load(house.port, house.key, mix, clients=options.clients, allowed=ALLOWED, first=first) as load,
        ):
            while not journal.out_of_time:
                try:
                    number = waiting.popleft()
                except IndexError:  # the other sides have the rest
                    break
                rng = random.Random(f"kills-{options.seed}-{number}")
                kinds = {"worker": number < options.worker, "front": number < options.front}
                journal.add(number=number, **Round(house, load, rng).run(**kinds), **probe.take())
                advance()
            load.pause()
        journal.add_end(faults=_last_look(house))


class Round:
    """One life of a server under load, and how it ends."""

    def __init__(self, house: House, load: Load, rng: random.Random) -> None:
        self._house = house
        self._load = load
        self._rng = rng
        self._faults: list[str] = []
        self._figures: dict[str, Any] = {"worker_killed": False, "front_killed": False, "temporary": 0}

    def run(self, *, worker: bool, front: bool) -> dict[str, Any]:
        house, load = self._house, self._load
        before = Counter(load.outcomes)
        closed_pictures = load.closed_pictures
        found_before = house.stored() if house.pictures.exists() else set()
        left = house.leftovers()
        due = house.half_written(older_than_s=WRITING_S)
        load.go_on()
        with house.life(wait=False, url_lifetime_s=LIFETIME_S) as running:
            started = house.ready(running)
            self._figures["cold_s"] = round(time.time() - started.create_time(), 3)
            if kept := due & house.half_written():
                self._faults.append(f"half-written files outlive the sweep of a start: {len(kept)}")
            time.sleep(self._rng.uniform(*PAUSE_S))
            if worker:
                self._kill_worker(running, started)
                time.sleep(self._rng.uniform(0.0, 1.0))
            load.pause()
            if held := house.permits_after():
                self._faults.append(f"permits leaked: {held}")
            load.go_on()
            time.sleep(self._rng.uniform(*PAUSE_S))
            if front:
                self._kill_front(running)
            else:
                load.pause()
                if code := running.stop():
                    self._faults.append(f"exit code {code}")
            self._faults += tracebacks(running)
        self._look_at_files(found_before, left, closed_pictures)
        outcomes = Counter(load.outcomes)
        outcomes.subtract(before)
        return {
            **self._figures,
            "asks": sum(outcomes.values()),
            "outcomes": {outcome: count for outcome, count in outcomes.items() if count},
            "faults": self._faults + load.take_faults(),
        }

    def _kill_worker(self, running: Running, worker: psutil.Process) -> None:
        worker.kill()
        killed_s = time.monotonic()
        self._house.ready(running, after=worker.pid)
        self._figures |= {"worker_killed": True, "again_s": round(time.monotonic() - killed_s, 3)}

    def _kill_front(self, running: Running) -> None:
        worker = running.worker()
        if self._rng.random() < 0.5:
            self._until_half_written()
        self._load.front_dies()
        running.process.kill()
        running.process.wait()
        self._load.front_is_dead()
        self._figures["front_killed"] = True
        if worker is not None:
            _, alive = psutil.wait_procs([worker], timeout=WORKER_ENDS_S)
            if alive:
                self._faults.append("a worker outlives its front")
                for process in alive:
                    process.kill()

    def _until_half_written(self) -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if any(atomic.target_of(path.name) for path in self._house.pictures.iterdir()):
                    return
                time.sleep(0.0002)  # a file is half written for some milliseconds

    def _look_at_files(self, found_before: set[str], left: set[str], closed_pictures: int) -> None:
        house, load = self._house, self._load
        found = house.stored()
        self._figures["temporary"] = sum(map(_temporary, house.leftovers() - left))
        self._faults += house.torn(found - found_before)
        if lost := load.names.keys() - found:
            self._faults.append(f"told pictures lost: {len(lost)}")
        untold = len(found - found_before - load.names.keys())
        self._figures["untold"] = untold
        if untold > load.closed_pictures - closed_pictures:
            self._faults.append(f"stored pictures that nobody can have asked for: {untold}")
        if not house.keys_intact:
            self._faults.append("keys.json changed")


def _last_look(house: House) -> list[str]:
    """What a last server leaves lying when every half-written file is old enough for its sweeps."""
    if not house.half_written():
        return []
    with house.life(url_lifetime_s=LIFETIME_S, sweep_interval_s=1) as running:
        deadline = time.monotonic() + WRITING_S + 10
        while (left := house.half_written()) and time.monotonic() < deadline:
            time.sleep(0.5)
        running.stop()
    return [f"half-written files outlive a minute and a sweep: {len(left)}"] if left else []


def _temporary(name: str) -> bool:
    return atomic.target_of(Path(name).name) is not None


def _end(journal: Journal, *, whole: bool) -> int:
    outcomes: Counter[str] = Counter()
    for row in journal.rows:
        outcomes.update(row["outcomes"])
    cold, again = (quantile(journal.values(name), 0.5) for name in ("cold_s", "again_s"))
    counts = (
        f"{sum(row['worker_killed'] for row in journal.rows)} workers and"
        f" {sum(row['front_killed'] for row in journal.rows)} fronts killed, {sum(outcomes.values())} requests"
        f" ({', '.join(f'{count} {outcome}' for outcome, count in outcomes.most_common())}),"
        f" {sum(row['temporary'] for row in journal.rows)} half-written files found after a kill,"
        f" ready {cold:.2f} s after a cold start and {again:.2f} s after a death"
    )
    bars = [bar(journal)]
    if journal.values("again_s"):
        bars.append(Bar("ratio of the medians", again / cold, MAX_RATIO))
    return journal.end(counts, bars, whole=whole)


if __name__ == "__main__":
    sys.exit(main())
