"""The load of ``darkroom bench`` on a running server, and what became of each request.

Knows the API from outside: a URL, a key, event streams and /metrics. Requests come from a number of clients that each
wait for their answer (closed), or at random moments at a given rate whatever the server does (Poisson).
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.commands.address import is_url
from server.commands.bench.mix import Ask
from server.commands.connection import is_this_machine
from server.commands.trust import context_for, refused_certificate
from server.errors import ConfigError

_TIMEOUT_S = 900.0
_COUNTER = re.compile(
    r'^darkroom_engine\{counter="(?P<name>\w+)_(?P<what>forwards|rows)"(,[^}]*)?\} (?P<value>\S+)$', re.M
)


_NOT_AT_STEPS = ("vae", "text_encoder")  # modules that are not called at every step


@dataclass(frozen=True)
class Sample:
    """The end of one request. Times are seconds since the load began."""

    ask: Ask
    sent_s: float
    first_step_s: float | None  # None: the server told of no step
    done_s: float
    error: str = ""  # the error's code, or what broke; empty: answered with pictures

    @property
    def latency_s(self) -> float:
        return self.done_s - self.sent_s

    @property
    def wait_s(self) -> float | None:
        """Time until the client learns of the first denoising step. A server reports steps ten times a second."""
        return None if self.first_step_s is None else self.first_step_s - self.sent_s


@dataclass(frozen=True)
class StepCurve:
    """What a step of a model costs by now, as the server has learnt it."""

    fixed_ms: float
    row_ms: float
    pixels: int  # of a row
    most_rows: int  # of one step
    steps: int  # that it was learnt from
    guess: bool


@dataclass(frozen=True)
class LoadResult:
    """The result of one load: everything a report needs."""

    command: str
    samples: tuple[Sample, ...]
    rows_per_batch: float | None  # None: /metrics does not say
    steps: Mapping[str, StepCurve] = field(default_factory=dict)  # what a step of each loaded model costs

    @property
    def good(self) -> list[Sample]:
        return [sample for sample in self.samples if not sample.error]

    @property
    def errors(self) -> Counter[str]:
        return Counter(sample.error for sample in self.samples if sample.error)

    @property
    def pictures_per_s(self) -> float:
        good = self.good
        if not good:
            return 0.0
        return sum(s.ask.pictures for s in good) / (max(s.done_s for s in good) - min(s.sent_s for s in good))


class LoadGenerator:
    """Sends requests to one server, and keeps a sample of each."""

    def __init__(self, client: httpx.AsyncClient, progress: Progress, count: int) -> None:
        self._client = client
        self._progress = progress
        self._bar = progress.add_task("requests answered", total=count)
        self._samples: list[Sample] = []
        self._started_s = time.monotonic()

    async def closed(self, asks: Sequence[Ask], clients: int) -> list[Sample]:
        """Each client sends its next request when the last is answered."""
        left = iter(asks)

        async def work() -> None:
            for ask in left:
                await self._send(ask)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(work())
        return self._samples

    async def poisson(self, asks: Sequence[Ask], rate: float, seed: int) -> list[Sample]:
        """``rate`` requests a second on average, each at its random moment."""
        rng = random.Random(seed)  # noqa: S311, repeatable on purpose
        async with asyncio.TaskGroup() as group:
            at_s = 0.0
            for ask in asks:
                at_s += rng.expovariate(rate)
                await asyncio.sleep(self._started_s + at_s - time.monotonic())
                group.create_task(self._send(ask))
        return self._samples

    def _now(self) -> float:
        return time.monotonic() - self._started_s

    async def _send(self, ask: Ask) -> None:
        sent_s, events = self._now(), _Events()
        try:
            async with self._client.stream("POST", "/v1/images/generations", json=dict(ask.body)) as response:
                if response.status_code == 200:
                    async for line in response.aiter_lines():
                        events.read(line, self._now)
                    error = events.error or events.missing(ask.pictures)
                else:
                    error = _code(response.status_code, await response.aread())
        except httpx.HTTPError as broken:
            error = type(broken).__name__
        self._samples.append(Sample(ask, sent_s, events.first_step_s, self._now(), error))
        self._progress.advance(self._bar)


class _Events:
    """What the events of one answer have told so far."""

    def __init__(self) -> None:
        self.first_step_s: float | None = None
        self.error = ""
        self._pictures = 0
        self._kind = ""

    def read(self, line: str, now: Callable[[], float]) -> None:
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
    counters = [match for match in _COUNTER.finditer(response.text) if not match["name"].startswith(_NOT_AT_STEPS)]
    if response.status_code != 200:
        return None
    totals = {what: sum(float(m["value"]) for m in counters if m["what"] == what) for what in ("forwards", "rows")}
    return totals["forwards"], totals["rows"]


async def read_steps(client: httpx.AsyncClient) -> dict[str, StepCurve]:
    """What a step of each model costs that /readyz tells it of."""
    found: dict[str, StepCurve] = {}
    try:
        models = (await client.get("/readyz")).json()["models"]
        for name, model in models.items():
            if "step" in model:
                found[name] = StepCurve(**{each.name: model["step"][each.name] for each in fields(StepCurve)})
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


async def run(
    client: httpx.AsyncClient,
    asks: Sequence[Ask],
    *,
    clients: int,
    rate: float | None,
    seed: int,
    command: str,
    progress: Progress,
) -> LoadResult:
    """Send ``asks``; ``rate`` set: as a Poisson stream, else from ``clients`` clients."""
    before = await read_rows(client)
    load = LoadGenerator(client, progress, len(asks))
    samples = await (load.closed(asks, clients) if rate is None else load.poisson(asks, rate, seed))
    after = await read_rows(client)
    rows_per_batch = None
    if before is not None and after is not None and after[0] > before[0]:
        rows_per_batch = (after[1] - before[1]) / (after[0] - before[0])
    return LoadResult(command, tuple(samples), rows_per_batch, await read_steps(client))


async def run_against(
    url: str, key: str | None, asks: Sequence[Ask], *, clients: int, rate: float | None, seed: int, command: str
) -> LoadResult:
    """``run`` against the server at ``url``, with a progress bar. Raises ConfigError when nobody answers there."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    if not is_url(url):
        raise ConfigError(f"{url!r}: must look like http://127.0.0.1:8000")
    async with httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=_TIMEOUT_S,
        limits=limits,
        verify=context_for(url),
        trust_env=not is_this_machine(httpx.URL(url).host),
    ) as client:
        try:
            await client.get("/livez")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            refused = refused_certificate(error, url)
            raise ConfigError(refused or f"nobody answers at {url}: {type(error).__name__}") from None
        with Progress(*columns) as progress:
            return await run(client, asks, clients=clients, rate=rate, seed=seed, command=command, progress=progress)
