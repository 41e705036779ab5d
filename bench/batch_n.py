"""Several pictures in one request, a server under full load, and its memory after many pictures.

    python -m bench.batch_n n          # n=8 against eight requests in a row: 1 minute on two quiet cores
    python -m bench.batch_n http       # pictures/s through HTTP against a bare loop: 3 minutes
    python -m bench.batch_n memory     # resident memory after 200 and after 1,000 pictures: 2 minutes
    python -m bench.batch_n memory --pictures 200 2000                                   # 4 minutes

``n`` runs the engine alone on bench/tiny.py. The others start a server of their own on the weights that ship.
Each writes bench/out/NAME.md.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import torch
from rich.progress import Progress

from bench import tables, tiny
from bench.engine import Recorder
from pipelines.engine.engine import Engine
from pipelines.models import loader, selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Task
from server.commands.bench import load
from server.commands.bench.load import LoadResult
from server.commands.bench.mix import Mix, make_asks
from tests.running import ROOT, Running, start

MANY = 8
STEPS, GUIDANCE = 8, 2.5
MODEL, NATIVE = "darkroom-mini", 128  # pixels a side
BARE_BATCHES = (4, 8, 16, 32)  # pictures in one batch of the bare loop
CLIENTS = 32
SETTLED_S = 2.0  # for freed memory to go back


# n=8 in one request


def several(arguments: argparse.Namespace) -> None:
    rows = []
    for latents in (8, 16):
        model = tiny.model(latents)
        selfcheck.check(model)
        single = [tiny.drawing(model, number, steps=STEPS, guidance=GUIDANCE) for number in range(MANY)]
        together = msgspec.structs.replace(single[0], seeds=tuple(range(MANY)))
        draw_in_turn(model, single[:2])  # warms up
        figures = []
        for number in range(arguments.rounds):
            print(f"{latents}×{latents}, round {number + 1} of {arguments.rounds}", flush=True)
            figures.append(
                (
                    timed(functools.partial(draw_in_turn, model, [together])),
                    timed(functools.partial(draw_in_turn, model, single)),
                )
            )
        for place, clock in enumerate(("wall", "CPU")):
            one, eight = (tables.median(figure[way][place] for figure in figures) for way in (0, 1))
            ratio = tables.median(figure[0][place] / figure[1][place] for figure in figures)
            rows.append((f"{latents}×{latents}", clock, f"{one:.3f}", f"{eight:.3f}", f"{ratio:.2f}"))
    tables.publish(
        "batch-n",
        f"## n={MANY} in one request against {MANY} requests of n=1 in a row",
        f"{STEPS} steps with guidance, the engine without HTTP, median of {arguments.rounds}. The bar: ≤ 0.6.",
        tables.table(("latents", "clock", f"n={MANY}, s", f"{MANY} × n=1, s", "ratio"), rows),
    )


def draw_in_turn(model: LoadedModel, drawings: list[Drawing]) -> None:
    drive = Recorder()
    engine = Engine(drive)
    ended = threading.Semaphore(0)
    for one in drawings:
        engine.submit(model, one, done=ended.release)
        ended.acquire()
    engine.close()
    assert not drive.errors, drive.errors


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall clock, and of this process's CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


# Through HTTP, against the bare loop


def saturated(arguments: argparse.Namespace) -> None:
    plan = ModelPlan(
        MODEL, str(ROOT / "weights" / MODEL), "stable-diffusion", native_width=NATIVE, native_height=NATIVE
    )
    model = loader.load(plan, torch.device("cpu"))
    bare: dict[int, list[float]] = {batch: [] for batch in BARE_BATCHES}
    through: list[LoadResult] = []
    with tempfile.TemporaryDirectory() as folder, start(Path(folder), queue_size=10_000) as server:
        draw(server, 2 * CLIENTS, arguments.size)  # warms up
        for number in range(arguments.rounds):
            for batch, rates in bare.items():
                print(f"round {number + 1} of {arguments.rounds}: bare loop, {batch} pictures a batch", flush=True)
                rates.append(bare_rate(model, batch, arguments.seconds / len(bare)))
            print(f"round {number + 1} of {arguments.rounds}: {CLIENTS} clients", flush=True)
            pictures = max(2 * CLIENTS, round(max(rates[-1] for rates in bare.values()) * arguments.seconds))
            through.append(draw(server, pictures, arguments.size))
    best = max(bare, key=lambda batch: tables.median(bare[batch]))
    ratios = [result.pictures_per_s / rate for result, rate in zip(through, bare[best], strict=True)]
    rows = [(f"bare loop, {batch} a batch", f"{tables.median(rates):.2f}", "") for batch, rates in bare.items()]
    rate, ratio = tables.median(result.pictures_per_s for result in through), tables.median(ratios)
    rows.append((f"HTTP, {CLIENTS} clients", f"{rate:.2f}", f"{ratio:.2f}"))
    batch_rows = tables.median(result.rows_per_batch or 0 for result in through)
    tables.publish(
        "saturation",
        "## Pictures a second through HTTP, against the bare denoiser and VAE",
        f"{MODEL}, drawn at {NATIVE}×{NATIVE}, delivered at {arguments.size} as PNG, {STEPS} steps with guidance; "
        f"median of {arguments.rounds}; {batch_rows:.1f} rows a batch through HTTP. The bare loop is nothing but "
        "forwards, with prompts as long as the server's: no encoding, scheduler, guidance or PNG. The bar: ≥ 1.10.",
        tables.table(("", "pictures/s", "against the best bare loop"), rows),
    )


@torch.inference_mode()
def bare_rate(model: LoadedModel, batch: int, seconds: float) -> float:
    """Pictures a second of forwards alone: two rows a picture for every step, then one decode."""
    modules: dict[str, Any] = {shared.name: shared.module for shared in model.shared_modules.values()}
    unet, vae = modules["unet"], modules["vae"]
    latents = torch.randn(batch, 4, unet.config.sample_size, unet.config.sample_size)
    # As long as the server's.
    wanted, other = model.pipeline(Task.TEXT_TO_IMAGE).encode_prompt("a red apple", "cpu", 1, True)
    prompts = torch.cat([other.repeat(batch, 1, 1), wanted.repeat(batch, 1, 1)])
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or not done:
        for step in range(STEPS):
            unet(torch.cat([latents, latents]), torch.tensor(step), encoder_hidden_states=prompts, return_dict=False)
        vae.decode(latents, return_dict=False)
        done += batch
    return done / (time.perf_counter() - started)


def draw(
    server: Running, requests: int, size: str, *, steps: int = STEPS, n: int = 1, clients: int = CLIENTS
) -> LoadResult:
    """Have the server answer so many requests, from clients that each wait for their answer."""
    mix = Mix(sizes=(size,), steps=(steps, steps), guidance=(GUIDANCE,), counts=(n,), model=MODEL)

    async def go() -> LoadResult:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits, trust_env=False) as client:
            with Progress() as progress:
                asks = make_asks(mix, requests, 1)
                return await load.run(client, asks, clients=clients, rate=None, seed=1, command="", progress=progress)

    result = asyncio.run(go())
    assert not result.errors, result.errors
    return result


# Memory


def memory(arguments: argparse.Namespace) -> None:
    early, late = arguments.pictures
    with tempfile.TemporaryDirectory() as folder, start(Path(folder)) as server:
        draw_pictures(server, early, arguments.size)
        before = resident(server)
        draw_pictures(server, late - early, arguments.size)
        after = resident(server)
    rows = [(name, f"{before[name]:.1f}", f"{after[name]:.1f}", f"{after[name] / before[name]:.3f}") for name in before]
    tables.publish(
        "memory",
        "## Resident memory after many pictures",
        f"MiB, {MODEL}, {arguments.size} PNG, requests of 1 to {MANY} pictures from {MANY} clients. The bar: ≤ 1.03.",
        tables.table(("process", f"after {early} pictures", f"after {late}", "ratio"), rows),
    )


def draw_pictures(server: Running, pictures: int, size: str) -> None:
    """So many pictures at least: half of them one by one, half eight in a request."""
    draw(server, pictures // 2, size, steps=2, clients=MANY)
    draw(server, -(-(pictures - pictures // 2) // MANY), size, steps=2, n=MANY, clients=MANY)


def resident(server: Running) -> dict[str, float]:
    """MiB of the front and of its worker, and their sum."""
    time.sleep(SETTLED_S)
    worker = server.worker()
    assert worker is not None
    mib = {"front": psutil.Process(server.process.pid), "worker": worker}
    found = {name: process.memory_info().rss / 2**20 for name, process in mib.items()}
    return {**found, "both": sum(found.values())}


SCENARIOS = {"n": several, "http": saturated, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is printed (default: 3)")
    parser.add_argument("--seconds", type=float, default=20, help="http: of each way in a round (default: 20)")
    parser.add_argument("--size", default="256x256", help="http, memory: of the pictures sent (default: 256x256)")
    parser.add_argument("--pictures", type=int, nargs=2, default=[200, 1000], help="memory: early, late (200 1000)")
    arguments = parser.parse_args()
    loader.quiet_libraries()
    SCENARIOS[arguments.scenario](arguments)


if __name__ == "__main__":
    main()
