"""What does sharing steps buy? The engine against one run at a time, and against static batching, without HTTP.

    python -m bench.engine --latents 8      # 3 to 4 minutes on two quiet cores; writes bench/out/engine-8.md
    python -m bench.engine --latents 16     # as long; writes bench/out/engine-16.md
    python -m bench.engine --latents 16 --loads burst uniform     # half of it

Three ways to serve the same requests, with the same weights (bench/tiny.py):

    one at a time   this engine, with room for one run
    static          waiting requests of equal steps and guidance, up to 8, in one pipeline call
    engine          as it is served

Each load is drawn by all three in turn, and again; ratios are taken within a round, and the median is printed.
Time is taken on the wall clock and on the process's CPU clock, which a busy machine disturbs less. Where nothing
waits and the next request is still to come, both clocks skip the pause.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from bench import tables, tiny
from pipelines.engine.arguments import call_arguments
from pipelines.engine.engine import Engine
from pipelines.engine.sink import Sink
from pipelines.errors import DrawError
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from tests.fixed_rows import FixedRows

STATIC_MAX = 8
LOADS = ("burst", "poisson", "uniform")
LOAD_OF_CAPACITY = 0.8
POLL_S = 0.001


@dataclass(frozen=True)
class Instant:
    """A moment, on both clocks."""

    wall: float
    cpu: float

    def on(self, clock: str) -> float:
        """Seconds on the clock of that name: wall or cpu."""
        return {"wall": self.wall, "cpu": self.cpu}[clock]

    @staticmethod
    def now() -> Instant:
        return Instant(time.perf_counter(), time.process_time())


@dataclass
class Drive:
    """One load, drawn in one way: when each request came and when its picture was there."""

    came: dict[str, Instant] = field(default_factory=dict)
    done: dict[str, Instant] = field(default_factory=dict)
    forwards: int = 0
    rows: int = 0
    errors: list[DrawError] = field(default_factory=list)

    def latencies(self, clock: str) -> list[float]:
        return [self.done[job_id].on(clock) - came.on(clock) for job_id, came in self.came.items()]

    def seconds(self, clock: str) -> float:
        first = min(moment.on(clock) for moment in self.came.values())
        return max(moment.on(clock) for moment in self.done.values()) - first


class Recorder(Drive, Sink):
    """A drive that is an engine's sink."""

    def drawn(self, drawing: Drawing, drawn: torch.Tensor) -> None:
        self.done[drawing.job_id] = Instant.now()

    def failed(self, drawing: Drawing, error: DrawError) -> None:
        self.errors.append(error)


# Three ways to serve. Each gives a function that takes a request in, and fills a drive until it is left.

Submit = Callable[[Drawing], None]


@contextmanager
def engine(model: LoadedModel, drive: Recorder, max_active: int | None = None) -> Iterator[Submit]:
    made = Engine(drive) if max_active is None else Engine(drive, max_active=max_active)
    yield lambda drawing: made.submit(model, drawing)
    made.close()
    drive.forwards, drive.rows = made.counts["unet_forwards"], made.counts["unet_rows"]


@contextmanager
def one_at_a_time(model: LoadedModel, drive: Recorder) -> Iterator[Submit]:
    with engine(model, drive, max_active=1) as submit:
        yield submit


@contextmanager
def static(model: LoadedModel, drive: Recorder) -> Iterator[Submit]:
    """The oldest request, and up to seven that wait and are like it, as one call; the next when it is done."""
    waiting: deque[Drawing] = deque()
    change = threading.Condition()
    closing = False

    def work() -> None:
        while True:
            with change:
                change.wait_for(lambda: waiting or closing)
                if not waiting:
                    return
                alike = [drawing for drawing in waiting if kind(drawing) == kind(waiting[0])][:STATIC_MAX]
                for drawing in alike:
                    waiting.remove(drawing)
            draw_as_one(model, alike)
            for drawing in alike:
                drive.done[drawing.job_id] = Instant.now()

    def submit(drawing: Drawing) -> None:
        with change:
            waiting.append(drawing)
            change.notify()

    thread = threading.Thread(target=work)
    thread.start()
    yield submit
    with change:
        closing = True
        change.notify()
    thread.join()


def kind(drawing: Drawing) -> tuple[object, ...]:
    return drawing.spec.steps, drawing.spec.guidance, drawing.spec.draw_width, drawing.spec.draw_height


@torch.no_grad()
def draw_as_one(model: LoadedModel, drawings: Sequence[Drawing]) -> None:
    pipeline = model.pipeline(drawings[0].spec.task)
    arguments = call_arguments(pipeline, model.family, drawings[0].spec, [drawing.seeds[0] for drawing in drawings])
    arguments |= {"prompt": [drawing.spec.prompt for drawing in drawings], "num_images_per_prompt": 1}
    assert len(pipeline(**arguments).images) == len(drawings)


WAYS = {"one at a time": one_at_a_time, "static": static, "engine": engine}


# Loads: requests, and the second on the driving clock at which each comes.


@dataclass(frozen=True)
class Workload:
    title: str
    drawings: Sequence[Drawing]
    arrivals: Sequence[float]  # seconds


def mixed(model: LoadedModel, count: int, seed: int) -> list[Drawing]:
    """4 to 30 steps, four guidances, one of which (1: none) makes half the rows."""
    dice = random.Random(seed)
    return [
        tiny.drawing(model, number, steps=dice.randint(4, 30), guidance=dice.choice([1.0, 2.5, 5.0, 7.5]))
        for number in range(count)
    ]


def alike(model: LoadedModel, count: int) -> list[Drawing]:
    return [tiny.drawing(model, number, steps=12, guidance=5.0) for number in range(count)]


def poisson(count: int, rate: float, seed: int) -> list[float]:
    dice, at, arrivals = random.Random(seed), 0.0, []
    for _ in range(count):
        at += dice.expovariate(rate)
        arrivals.append(at)
    return arrivals


def draw(load: Workload, way: str, model: LoadedModel, clock: str) -> Drive:
    """Send the requests as they come, on ``clock``, and wait for the last picture."""
    drive = Recorder()
    with WAYS[way](model, drive) as submit:
        start = getattr(Instant.now(), clock)
        for number, (request, at) in enumerate(zip(load.drawings, load.arrivals, strict=True)):
            while (early := start + at - getattr(Instant.now(), clock)) > 0:
                if len(drive.done) == number:  # nothing to do until then: let it be then
                    start -= early
                else:
                    time.sleep(POLL_S)
            drive.came[request.job_id] = Instant.now()
            submit(request)
    assert len(drive.done) == len(load.drawings), drive.errors
    return drive


# What comes of it.


def ratios(clock: str, drive: Drive, against: Drive) -> dict[str, float]:
    mine, theirs = drive.latencies(clock), against.latencies(clock)
    return {
        "pictures/s": against.seconds(clock) / drive.seconds(clock),
        "mean": tables.mean(mine) / tables.mean(theirs),
        "p95": tables.percentile(mine, 95) / tables.percentile(theirs, 95),
    }


MEASURES = ("pictures/s", "mean", "p95")


def compare(rounds: Sequence[dict[str, Drive]], clock: str, against: str) -> list[str]:
    each = [ratios(clock, drives["engine"], drives[against]) for drives in rounds]
    return [f"{tables.median(one[measure] for one in each):.2f}" for measure in MEASURES]


def absolute(rounds: Sequence[dict[str, Drive]], way: str) -> list[str]:
    drives = [drives[way] for drives in rounds]
    return [
        f"{tables.median(len(drive.done) / drive.seconds('wall') for drive in drives):.2f}",
        f"{tables.median(tables.mean(drive.latencies('wall')) for drive in drives):.2f}",
        f"{tables.median(tables.percentile(drive.latencies('wall'), 95) for drive in drives):.2f}",
        f"{tables.median(drive.rows / drive.forwards for drive in drives):.1f}" if drives[0].forwards else "–",
    ]


def measure(latents: int, arguments: argparse.Namespace) -> None:
    model = tiny.model(latents)
    selfcheck.check(model)
    count, seed = arguments.requests, arguments.seed
    burst = Workload(f"{count} at once, mixed", mixed(model, count, seed), [0.0] * count)
    uniform = Workload(f"{count} at once, all alike", alike(model, count), [0.0] * count)
    most_rows = prepare(model, latents, arguments.most_rows, uniform, arguments.clock)
    coming = mixed(model, arguments.arrivals, seed)
    results: dict[str, list[dict[str, Drive]]] = {}
    started = time.monotonic()

    def run(load: Workload) -> dict[str, Drive]:
        print(f"{time.monotonic() - started:4.0f} s  {latents}×{latents}  {load.title}", flush=True)
        drives = {way: draw(load, way, model, arguments.clock) for way in WAYS}
        results.setdefault(load.title, []).append(drives)
        return drives

    draw(Workload("", burst.drawings[:4], [0.0] * 4), "engine", model, arguments.clock)  # warms up
    for number in range(arguments.rounds):
        if "burst" in arguments.loads:
            alone = run(burst)["one at a time"]
        elif "poisson" in arguments.loads:
            alone = draw(burst, "one at a time", model, arguments.clock)
        if "poisson" in arguments.loads:
            rate = LOAD_OF_CAPACITY * count / alone.seconds(arguments.clock)
            run(Workload("Poisson, 0.8 of capacity", coming, poisson(len(coming), rate, seed + number)))
        if "uniform" in arguments.loads:
            run(uniform)
    heads = ("load", "clock", *(f"{m} ÷ one at a time" for m in MEASURES), *(f"{m} ÷ static" for m in MEASURES))
    rows = [
        (title, clock, *compare(rounds, clock, "one at a time"), *compare(rounds, clock, "static"))
        for title, rounds in results.items()
        for clock in ("wall", "cpu")
    ]
    plain = [(t, way, *absolute(rounds, way)) for t, rounds in results.items() for way in WAYS]
    tables.publish(
        f"engine-{latents}",
        f"## The engine at {latents}×{latents} latents",
        f"Ratios, median of {arguments.rounds} rounds; at most {most_rows} rows a step as the first began.",
        tables.table(heads, rows),
        "The same in pictures a second and in seconds, on the wall clock:",
        tables.table(("load", "served", "pictures/s", "mean, s", "p95, s", "rows a step"), plain),
    )


def prepare(model: LoadedModel, latents: int, most_rows: int | None, load: Workload, clock: str) -> int:
    """The most rows a step may have: as is learnt from the steps of ``load``, or as told."""
    assert model.shares, model.reason
    (shared,) = (shared for shared in model.shared_modules.values() if shared.is_denoiser)
    if most_rows is not None:
        shared.costs = FixedRows(most_rows)
    else:
        draw(load, "engine", model, clock)
    return shared.most_rows(4 * latents * latents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=8, help="of a picture's side (default: 8)")
    parser.add_argument("--requests", type=int, default=30, help="in a load that comes at once (default: 30)")
    parser.add_argument("--arrivals", type=int, default=40, help="in a load that comes one by one (default: 40)")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS, help="which (default: all three)")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is printed (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="of the mix and of the arrivals (default: 1)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="what drives arrivals (default: wall)")
    parser.add_argument("--most-rows", type=int, help="rows a step, instead of what is learnt")
    arguments = parser.parse_args()
    measure(arguments.latents, arguments)


if __name__ == "__main__":
    main()
