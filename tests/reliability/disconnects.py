"""Clients that leave at random moments: does everything that they held come back, and does the drawing stop?

    python -m tests.reliability.disconnects --count 1000

They leave in groups of five, beside two honest clients: before the head is whole, in the body, while queued, at each
step, in the stream, while the answer is read, and with another request pipelined behind. Of the steps that /metrics
counts, those of honest requests are known, and so are those that a client saw before it left: the rest was drawn after.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.asks import Ask, Mix, drawn
from tests.reliability.journal import Bar, Journal, parser, progress
from tests.reliability.lives import House, quiet_descriptors, tracebacks
from tests.reliability.load import Load, niced, told_of_job
from tests.reliability.probe import Probe, bar
from tests.reliability.wire import Closed, bearer, connect, leave, request_bytes

MOMENTS = ("head", "body", "queued", "step", "step", "stream", "answer", "pipelined", "pipelined")
GROUP = 5
HONEST = 2
TURNS = 3  # so that some of a group are queued
STEPS = 8  # of a request that is left
ROWS = 8  # pictures of it: a step must last longer than a look at it
PATIENCE_S = 120.0
QUIET_S = 0.6  # without a step: the drawing has stopped


@dataclass
class Left:
    """How a client left."""

    moment: str
    seen: int = 0  # steps that it knew of
    drawing: bool = False  # a step may have been under way


class Leaver:
    """One client that leaves. ``port`` and ``key`` are the server's."""

    def __init__(self, port: int, key: str, rng: random.Random) -> None:
        self._port = port
        self._key = key
        self._rng = rng
        self._job = f"leaver-{rng.randrange(2**60):x}"

    async def run(self, moment: str) -> Left:
        left = Left(moment)
        steps, rows = (2, 2) if moment == "answer" else (STEPS, ROWS)
        ask = drawn("stream" if moment == "stream" else "b64", self._rng, steps=steps, n=rows)
        request = self._request(ask)
        reader, writer = await connect(self._port)
        try:
            async with asyncio.timeout(PATIENCE_S):
                with contextlib.suppress(Closed, ConnectionError, asyncio.IncompleteReadError):
                    await self._until(left, request, reader, writer)
        finally:
            leave(writer, reset=self._rng.random() < 0.5)
        return left

    def _request(self, ask: Ask) -> bytes:
        body = ask.body
        if ask.kind == "stream":
            body = json.dumps({**json.loads(body), "stream_progress": True}).encode()
        headers = {**ask.headers, **bearer(self._key), "x-job-id": self._job}
        return request_bytes(ask.method, ask.path, body=body, headers=headers, close=False)

    async def _until(
        self, left: Left, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send a request, or part of one, and return at the moment to leave."""
        rng = self._rng
        head = request.index(b"\r\n\r\n") + 4
        match left.moment:
            case "head":
                writer.write(request[: rng.randrange(head)])
                await asyncio.sleep(rng.uniform(0, 0.3))
            case "body":
                writer.write(request[: rng.randrange(head, len(request))])
                await asyncio.sleep(rng.uniform(0, 0.3))
            case "queued":
                writer.write(request)
                await asyncio.sleep(rng.uniform(0, 0.1))
                await self._look(left)
            case "step" | "pipelined":
                writer.write(request)
                if left.moment == "pipelined":
                    behind = rng.choice((request_bytes("GET", "/livez", close=False), request, b"GET /li"))
                    writer.write(behind)
                await self._until_step(left, rng.randrange(STEPS))
            case "stream":
                writer.write(request)
                await self._read_stream(left, reader, events=rng.randint(1, STEPS))
            case "answer":
                writer.write(request)
                await reader.readuntil(b"\r\n\r\n")
                left.seen = 2
                await reader.readexactly(rng.randint(1, 5000))

    async def _until_step(self, left: Left, step: int) -> None:
        started = seen_s = time.monotonic()
        while True:
            status = await self._look(left)
            if status not in ("none", "queued", "running") or (status == "running" and left.seen >= step):
                break
            seen_s = time.monotonic()
            await asyncio.sleep(0.01)
        # Somewhere in the step: not at its end, where nobody could tell whether the next one has begun.
        await asyncio.sleep(self._rng.uniform(0, 0.3) * min(0.3, (seen_s - started) / max(1, step)))
        await self._look(left)

    async def _look(self, left: Left) -> str:
        status, left.seen = await told_of_job(self._port, self._key, self._job)
        left.drawing = status != "done"
        return status

    async def _read_stream(self, left: Left, reader: asyncio.StreamReader, *, events: int) -> None:
        for _ in range(events):
            await reader.readuntil(b"\n\n")
        await asyncio.sleep(self._rng.uniform(0, 0.02))
        await self._look(left)


def main() -> int:
    options_parser = parser(__doc__, time_limit_s=10800)
    options_parser.add_argument("--count", type=int, default=1000, help="clients that leave (default: 1000)")
    options_parser.add_argument("--moments", nargs="+", choices=sorted(set(MOMENTS)), default=[*MOMENTS])
    options = options_parser.parse_args()
    journal = Journal("disconnects", options)
    groups = -(-options.count // GROUP)
    with tempfile.TemporaryDirectory(prefix="disconnects-") as folder, progress() as shown:
        house = House(Path(folder))
        bar_ = shown.add_task("clients that left", total=groups * GROUP, completed=len(journal.rows) * GROUP)
        with house.life(running_jobs=TURNS, queue_size=32) as running, Probe(house.port) as probe:
            before = quiet_descriptors(running.process.pid)
            while len(journal.rows) < groups and not journal.out_of_time:
                number = len(journal.rows)
                row = _group(house, options.moments, options.seed, number)
                row["faults"] += probe.faults()
                journal.add(number=number, **row, **probe.take())
                shown.advance(bar_, GROUP)
            time.sleep(1)
            faults = tracebacks(running)
            opened = quiet_descriptors(running.process.pid) - before
            if code := running.stop():
                faults.append(f"exit code {code}")
        journal.add_end(descriptors=opened, faults=faults)
    return _end(journal, whole=len(journal.rows) >= groups)


def _group(house: House, choice: list[str], seed: int, number: int) -> dict[str, Any]:
    """Some leave, some stay; then what is left of them is counted."""
    rng = random.Random(f"disconnects-{seed}-{number}")
    moments = [rng.choice(choice) for _ in range(GROUP)]
    before = house.metrics()
    left: list[Left] = []

    async def leavers() -> None:
        made = [Leaver(house.port, house.key, random.Random(rng.random())) for _ in moments]
        left.extend(await asyncio.gather(*(one.run(moment) for one, moment in zip(made, moments, strict=True))))

    mix = Mix(seed + number, ("url", "b64", "stream"), steps=(4, 4))
    faults: list[str] = []
    with Load(house.port, house.key, mix, clients=HONEST) as load:
        leaving = niced(leavers)
        leaving.join(PATIENCE_S + 30)
        if leaving.is_alive() or len(left) < GROUP:
            faults.append("a client that was to leave is stuck")
        load.pause()
    if held := house.permits_after():
        faults.append(f"permits leaked: {held}")
    after = _quiet(house)
    drawing = sum(one.drawing for one in left)
    drawn_after = round(after - before.steps - 4 * load.outcomes["200"] - sum(one.seen for one in left))
    now = house.metrics()
    if now.server_faults > before.server_faults:
        faults.append(f"answers of 500 and more: {now.server_faults - before.server_faults}")
    return {
        "left": [[one.moment, one.seen, one.drawing] for one in left],
        "honest": load.outcomes["200"],
        "drawing": drawing,
        "steps_after": drawn_after,
        "faults": faults + load.take_faults(),
    }


def _quiet(house: House) -> int:
    """The steps done, once no more are."""
    steps, since = house.metrics().steps, time.monotonic()
    while time.monotonic() - since < QUIET_S:
        time.sleep(0.1)
        if (now := house.metrics().steps) != steps:
            steps, since = now, time.monotonic()
    return steps


def _end(journal: Journal, *, whole: bool) -> int:
    moments = Counter(moment for row in journal.rows for moment, _, _ in row["left"])
    after, drawing = (sum(row[name] for row in journal.rows) for name in ("steps_after", "drawing"))
    excess = [row["steps_after"] - row["drawing"] for row in journal.rows]
    counts = (
        f"{moments.total()} clients left ({', '.join(f'{count} {name}' for name, count in moments.most_common())}),"
        f" {sum(row['honest'] for row in journal.rows)} honest requests answered,"
        f" {after} steps drawn for {drawing} jobs after their clients had left,"
        f" {sum(beyond > 0 for beyond in excess)} of {len(excess)} groups above one a job"
    )
    bars = [
        Bar("steps a job after its client had left", after / max(1, drawing), 1),
        Bar("most steps beyond one a job in a group", max(excess, default=0), 0),
        Bar("descriptors more than before", max(end["descriptors"] for end in journal.ends), 0),
        bar(journal),
    ]
    return journal.end(counts, bars, whole=whole)


if __name__ == "__main__":
    sys.exit(main())
