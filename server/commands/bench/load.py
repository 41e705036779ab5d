"""``darkroom bench``: load on a running server, and what came of it.

Knows the API from outside: a URL, a key, request bodies and /metrics. Requests are drawn from a seeded mix, so that
two runs of one command send the same; they come from a number of clients that each wait for their answer (closed),
or at random moments at a given rate whatever the server does (Poisson).
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.commands.bench import report
from server.errors import ConfigError

TASKS = ("t2i", "i2i", "inpaint")
_TIMEOUT_S = 900.0
_SUBJECTS = ("a red apple", "two dogs on a beach", "a cat", "a house in the snow", "a ship at sunset", "a green tree")
_SOURCE_SIDE = 64  # pixels
_SAMPLE = re.compile(r'^darkroom_engine\{counter="(?P<name>\w+)_(?P<what>forwards|rows)"\} (?P<value>\S+)$', re.M)


@dataclass(frozen=True)
class Mix:
    """What is asked for: each request takes one of each, by a seeded die."""

    sizes: tuple[str, ...] = ("256x256",)
    steps: tuple[int, int] = (4, 30)  # least, most
    guidance: tuple[float, ...] = (1.0, 2.5, 5.0)
    tasks: tuple[str, ...] = ("t2i",)
    counts: tuple[int, ...] = (1,)  # pictures in a request: n
    model: str | None = None

    def __str__(self) -> str:
        listed = (f"{', '.join(map(str, values))}" for values in (self.sizes, self.guidance, self.tasks, self.counts))
        sizes, guidance, tasks, counts = listed
        least, most = self.steps
        return f"sizes {sizes}; steps {least} to {most}; guidance {guidance}; tasks {tasks}; n {counts}"


@dataclass(frozen=True)
class Ask:
    """One request to send."""

    number: int
    task: str
    body: Mapping[str, Any]

    @property
    def pictures(self) -> int:
        return int(self.body["n"])


@dataclass(frozen=True)
class Outcome:
    """One request's end. Times are seconds since the load began."""

    ask: Ask
    sent_s: float
    first_step_s: float | None  # None: no step was told of
    done_s: float
    error: str = ""  # the error's code, or what broke; empty: answered with pictures

    @property
    def latency_s(self) -> float:
        return self.done_s - self.sent_s

    @property
    def wait_s(self) -> float | None:
        """Until the client knows that the first denoising step is done. Servers tell of steps ten times a second."""
        return None if self.first_step_s is None else self.first_step_s - self.sent_s


@dataclass(frozen=True)
class Result:
    """Everything a report needs."""

    command: str
    outcomes: tuple[Outcome, ...]
    rows_per_batch: float | None  # None: /metrics does not say

    @property
    def good(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.error]

    @property
    def errors(self) -> Counter[str]:
        return Counter(outcome.error for outcome in self.outcomes if outcome.error)

    @property
    def pictures_per_s(self) -> float:
        good = self.good
        if not good:
            return 0.0
        return sum(o.ask.pictures for o in good) / (max(o.done_s for o in good) - min(o.sent_s for o in good))


def make_asks(mix: Mix, count: int, seed: int) -> list[Ask]:
    """``count`` requests: the same for the same mix and seed."""
    dice = random.Random(seed)  # noqa: S311, repeatable on purpose
    asks = []
    for number in range(count):
        task = dice.choice(mix.tasks)
        body: dict[str, Any] = {
            "prompt": dice.choice(_SUBJECTS),
            "size": dice.choice(mix.sizes),
            "num_inference_steps": dice.randint(*mix.steps),
            "guidance_scale": dice.choice(mix.guidance),
            "n": dice.choice(mix.counts),
            "seed": dice.randrange(2**32),
            "response_format": "b64_json",
            "stream": True,
            "stream_progress": True,
        }
        if mix.model is not None:
            body["model"] = mix.model
        if task != "t2i":
            body["image"] = _picture("RGB", number)
        if task == "inpaint":
            body["mask"] = _picture("L", number)
        asks.append(Ask(number, task, body))
    return asks


def _picture(mode: str, number: int) -> str:
    """A source of four coloured fields, or a mask that repaints its left half, as a data: URL."""
    if mode == "L":
        image = Image.new("L", (_SOURCE_SIDE, _SOURCE_SIDE))
        image.paste(255, (0, 0, _SOURCE_SIDE // 2, _SOURCE_SIDE))
    else:
        image = Image.new("RGB", (2, 2))
        image.putdata([((number * 53 + k * 70) % 256, (number * 97 + k * 40) % 256, k * 80) for k in range(4)])
        image = image.resize((_SOURCE_SIDE, _SOURCE_SIDE), Image.Resampling.NEAREST)
    out = io.BytesIO()
    image.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


# Sending


class Load:
    """Sends requests to one server, and notes what became of each."""

    def __init__(self, client: httpx.AsyncClient, progress: Progress, count: int) -> None:
        self._client = client
        self._progress = progress
        self._bar = progress.add_task("requests answered", total=count)
        self._outcomes: list[Outcome] = []
        self._started_s = time.monotonic()

    async def closed(self, asks: Sequence[Ask], clients: int) -> list[Outcome]:
        """Each client sends its next request when the last is answered."""
        left = iter(asks)

        async def work() -> None:
            for ask in left:
                await self._send(ask)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(work())
        return self._outcomes

    async def poisson(self, asks: Sequence[Ask], rate: float, seed: int) -> list[Outcome]:
        """``rate`` requests a second on average, each at its random moment."""
        dice = random.Random(seed)  # noqa: S311, repeatable on purpose
        async with asyncio.TaskGroup() as group:
            at_s = 0.0
            for ask in asks:
                at_s += dice.expovariate(rate)
                await asyncio.sleep(self._started_s + at_s - time.monotonic())
                group.create_task(self._send(ask))
        return self._outcomes

    def _now(self) -> float:
        return time.monotonic() - self._started_s

    async def _send(self, ask: Ask) -> None:
        sent_s, story = self._now(), _Story()
        try:
            async with self._client.stream("POST", "/v1/images/generations", json=dict(ask.body)) as response:
                if response.status_code == 200:
                    async for line in response.aiter_lines():
                        story.hear(line, self._now)
                    error = story.error or story.missing(ask.pictures)
                else:
                    error = _code(response.status_code, await response.aread())
        except httpx.HTTPError as broken:
            error = type(broken).__name__
        self._outcomes.append(Outcome(ask, sent_s, story.first_step_s, self._now(), error))
        self._progress.advance(self._bar)


class _Story:
    """What the events of one answer have told."""

    def __init__(self) -> None:
        self.first_step_s: float | None = None
        self.error = ""
        self._pictures = 0
        self._kind = ""

    def hear(self, line: str, now: Callable[[], float]) -> None:
        name, _, value = line.partition(": ")
        if name == "event":
            self._kind = value
            self._pictures += value.endswith(".completed")
        elif name == "data" and self._kind == "error":
            self.error = _code(200, value)
        elif name == "data" and self._kind == "darkroom.progress" and self.first_step_s is None:
            self.first_step_s = now() if json.loads(value)["done"] > 0 else None

    def missing(self, pictures: int) -> str:
        return "" if self._pictures == pictures else f"{self._pictures} of {pictures} pictures"


def _code(status: int, body: bytes | str) -> str:
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = None
    return f"{status} {code}" if isinstance(code, str) else str(status)


async def read_rows(client: httpx.AsyncClient) -> tuple[float, float] | None:
    """The denoiser's forwards and rows since the worker started; None where /metrics does not tell."""
    try:
        response = await client.get("/metrics")
    except httpx.HTTPError:
        return None
    samples = [match for match in _SAMPLE.finditer(response.text) if match["name"] != "vae"]
    if response.status_code != 200:
        return None
    totals = {what: sum(float(m["value"]) for m in samples if m["what"] == what) for what in ("forwards", "rows")}
    return totals["forwards"], totals["rows"]


async def run(
    client: httpx.AsyncClient,
    asks: Sequence[Ask],
    *,
    clients: int,
    rate: float | None,
    seed: int,
    command: str,
    progress: Progress,
) -> Result:
    """Send ``asks``; ``rate`` set: as a Poisson stream, else from ``clients`` clients."""
    before = await read_rows(client)
    load = Load(client, progress, len(asks))
    outcomes = await (load.closed(asks, clients) if rate is None else load.poisson(asks, rate, seed))
    after = await read_rows(client)
    rows_per_batch = None
    if before is not None and after is not None and after[0] > before[0]:
        rows_per_batch = (after[1] - before[1]) / (after[0] - before[0])
    return Result(command, tuple(outcomes), rows_per_batch)


def bench(
    url: str,
    key: str | None,
    mix: Mix,
    *,
    requests: int,
    clients: int,
    rate: float | None,
    seed: int,
    out: Path,
) -> int:
    """Run the load, print the figures, write the report. Returns the exit code: 1 where a request failed."""
    console = Console()
    arrivals = f"{clients} clients" if rate is None else f"{rate:g} requests a second, Poisson"
    command = f"{url}: {requests} requests from seed {seed}; {arrivals}; {mix}"
    result = asyncio.run(_bench(url, key, make_asks(mix, requests, seed), clients, rate, seed, command))
    for name, value in report.figures(result):
        console.print(f"{name:<28}{value}", highlight=False, markup=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report.page(result), encoding="utf-8")
    console.print(f"report: {out}", highlight=False, markup=False)
    return 1 if result.errors else 0


async def _bench(
    url: str, key: str | None, asks: Sequence[Ask], clients: int, rate: float | None, seed: int, command: str
) -> Result:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT_S, limits=limits) as client:
        try:
            await client.get("/livez")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(f"nobody answers at {url}: {type(error).__name__}") from None
        with Progress(*columns) as progress:
            return await run(client, asks, clients=clients, rate=rate, seed=seed, command=command, progress=progress)
