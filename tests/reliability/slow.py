"""Thousands of slow and silent sockets from one address beside an honest client on another: is it served as ever?

    python -m tests.reliability.slow --sockets 2000

The slow ones come from 127.0.0.2: silent, with a head or a body that drips, with an answer that is not read, silent
after their first answer. What the server closes is opened again. The honest one comes from 127.0.0.1. With
`--server-descriptors` the server may have no more than so many, which it cannot raise.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.reliability.asks import GENERATIONS, Mix
from tests.reliability.journal import Bar, Journal, parser, progress
from tests.reliability.lives import House, descriptors, tracebacks
from tests.reliability.load import Load, niced
from tests.reliability.probe import Probe, bar
from tests.reliability.wire import HOST, bearer, request_bytes

FROM = "127.0.0.2"
WAYS = ("silent", "head", "body", "unread", "idle")
ROUND_S = 30.0
DRIP_S = (0.5, 3.0)
OPEN_S = 5.0  # for all sockets of a round to be opened
CLOSE_S = 90.0  # for the server to have let go of them
KINDS = ("url", "b64", "stream", "edit", "bad_field")


class Slow:
    """So many slow sockets, for as long as ``going_on``."""

    def __init__(self, house: House, count: int, seed: str) -> None:
        self._house = house
        self._count = count
        self._rng = random.Random(seed)
        self.going_on = True
        self.opened: Counter[str] = Counter()
        self.closed_by_server = 0
        self.open_now = 0
        self.most_open = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._keep_open(random.Random(self._rng.random())))

    async def _keep_open(self, rng: random.Random) -> None:
        way = rng.choice(WAYS)
        await asyncio.sleep(rng.uniform(0, OPEN_S))
        while self.going_on:
            try:
                with socket.socket() as opened:
                    opened.setblocking(False)
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    opened.bind((FROM, 0))
                    await asyncio.wait_for(
                        asyncio.get_running_loop().sock_connect(opened, (HOST, self._house.port)), 10
                    )
                    self.opened[way] += 1
                    self.open_now += 1
                    self.most_open = max(self.most_open, self.open_now)
                    try:
                        await self._be_slow(opened, way, rng)
                    finally:
                        self.open_now -= 1
            except (OSError, TimeoutError):
                self.closed_by_server += self.going_on
            await asyncio.sleep(rng.uniform(0.2, 1.0))

    async def _be_slow(self, opened: socket.socket, way: str, rng: random.Random) -> None:
        """Until the server closes, or all is over."""
        loop = asyncio.get_running_loop()
        whole = request_bytes(
            "POST", GENERATIONS, body=b" " * 100_000, headers=bearer(self._house.key if rng.random() < 0.5 else None)
        )
        head = whole.index(b"\r\n\r\n") + 4
        drips = {"head": (0, whole[: head - 4]), "body": (head, whole)}
        if way in drips:
            sent, bytes_ = drips[way]
            await loop.sock_sendall(opened, bytes_[:sent])
            while self.going_on and sent < len(bytes_):
                await asyncio.sleep(rng.uniform(*DRIP_S))
                await loop.sock_sendall(opened, bytes_[sent : sent + 1])  # fails once the server has closed
                sent += 1
            return
        if way == "unread":
            for _ in range(8):
                ask = request_bytes("GET", "/openapi.json", headers=bearer(self._house.key), close=False)
                await loop.sock_sendall(opened, ask)
        elif way == "idle":
            await loop.sock_sendall(opened, request_bytes("GET", "/livez", close=False))
            await loop.sock_recv(opened, 4096)
        while self.going_on:
            await asyncio.sleep(rng.uniform(*DRIP_S))
            if way == "unread":
                await loop.sock_sendall(opened, b"\r\n")  # asks nothing, and fails once the server has closed
            else:
                with contextlib.suppress(BlockingIOError):
                    if not opened.recv(4096):
                        raise ConnectionResetError


def main() -> int:
    options_parser = parser(__doc__, time_limit_s=3600)
    options_parser.add_argument("--sockets", type=int, default=2000, help="slow sockets at a time (default: 2000)")
    options_parser.add_argument("--seconds", type=int, default=180, help="for so long (default: 180)")
    options_parser.add_argument("--clients", type=int, default=2, help="honest clients that draw (default: 2)")
    options_parser.add_argument(
        "--server-descriptors", type=int, default=0, help="soft and hard limit of the server's (default: as it is)"
    )
    options = options_parser.parse_args()
    _raisedescriptors(options.sockets + 512)
    journal = Journal("slow", options)
    rounds = max(1, round(options.seconds / ROUND_S))
    limit = options.server_descriptors
    wrapper = ("prlimit", f"--nofile={limit}:{limit}") if limit else ()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="slow-") as folder, progress() as shown:
        house = House(Path(folder))
        bar_ = shown.add_task("rounds", total=rounds, completed=len(journal.rows))
        with house.life(wrapper=wrapper) as running:
            pid = running.process.pid
            before = descriptors(pid)
            slow = Slow(house, options.sockets, f"slow-{options.seed}-{len(journal.rows)}")
            mix = Mix(options.seed + len(journal.rows), KINDS, steps=(1, 8))
            with Probe(house.port) as probe, Load(house.port, house.key, mix, clients=options.clients) as load:
                thread = niced(slow.run)
                while len(journal.rows) < rounds and not journal.out_of_time:
                    journal.add(number=len(journal.rows), **_round(pid, slow, load, probe))
                    shown.advance(bar_)
                slow.going_on = False
                load.pause()
                faults += load.take_faults()
                thread.join(DRIP_S[1] * 4)
            deadline = time.monotonic() + CLOSE_S
            while (left := descriptors(running.process.pid) - before) > 0 and time.monotonic() < deadline:
                time.sleep(0.5)
            if held := house.permits_after():
                faults.append(f"permits leaked: {held}")
            faults += tracebacks(running)
            if code := running.stop():
                faults.append(f"exit code {code}")
        journal.add_end(descriptors=left, faults=faults)
    return _end(journal, whole=len(journal.rows) >= rounds)


def _raisedescriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))


def _round(pid: int, slow: Slow, load: Load, probe: Probe) -> dict[str, Any]:
    """What has come about in some seconds."""
    opened, outcomes, closed = Counter(slow.opened), Counter(load.outcomes), slow.closed_by_server
    most = 0
    deadline = time.monotonic() + ROUND_S
    while time.monotonic() < deadline:
        most = max(most, descriptors(pid))
        time.sleep(0.5)
    opened = slow.opened - opened
    return {
        "opened": dict(opened),
        "most_open": slow.most_open,
        "closed_by_server": slow.closed_by_server - closed,
        "server_descriptors": most,
        "server_mib": round(psutil.Process(pid).memory_info().rss / 2**20, 1),
        "outcomes": dict(load.outcomes - outcomes),
        "faults": load.take_faults() + probe.faults(),
        **probe.take(),
    }


def _end(journal: Journal, *, whole: bool) -> int:
    opened: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for row in journal.rows:
        opened.update(row["opened"])
        outcomes.update(row["outcomes"])
    counts = (
        f"{opened.total()} slow sockets opened ({', '.join(f'{count} {way}' for way, count in opened.most_common())}),"
        f" {max(journal.values('most_open'), default=0):.0f} at a time,"
        f" {sum(journal.values('closed_by_server')):.0f} closed by the server;"
        f" {max(journal.values('server_descriptors'), default=0):.0f} descriptors and"
        f" {max(journal.values('server_mib'), default=0):.0f} MiB of the front at most; honest requests:"
        f" {', '.join(f'{count} × {outcome}' for outcome, count in outcomes.most_common())}"
    )
    bars = [
        bar(journal),
        Bar("descriptors more than before", max(end["descriptors"] for end in journal.ends), 0),
    ]
    return journal.end(counts, bars, whole=whole)


if __name__ == "__main__":
    sys.exit(main())
