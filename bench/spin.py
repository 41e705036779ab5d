"""What does a step cost where the worker's threads share a core, and what does it cost not to?

    python -m bench.spin                 # a minute; writes bench/out/spin.md
    python -m bench.spin --pictures      # some minutes a round on two quiet cores: pictures a second of a full server

Threads of OpenMP wait for each other after every part of a step. libgomp has them look 300,000 times, for some 10 ms,
before they sleep, and the one that is awaited may be the one that needs the core. Workers therefore have
GOMP_SPINCOUNT=5000 unless the environment says something else. Here steps of a small denoiser are timed in a process
with either, its threads first on two cores, then all on one, by turns; with --pictures a server's whole throughput.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bench import tables, tiny
from tests.running import ROOT, start

BAR, LOSS_BAR = 5.0, 0.02  # times a step on two cores; of a full server's pictures a second
OWN, OURS = "300000", "5000"  # libgomp's and the worker's
STEPS = 20
ROWS = 4
LATENTS = 16


def bind(cores: set[int]) -> None:
    """Have all threads of this process on these cores, as taskset -ap does."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def step_s(unet: torch.nn.Module, steps: int) -> float:
    latents, prompt = torch.zeros(ROWS, 4, LATENTS, LATENTS), torch.zeros(ROWS, 32, 64)
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(steps):
            unet(latents, torch.tensor(5), encoder_hidden_states=prompt, return_dict=False)
    return (time.perf_counter() - began) / steps


def inner(rounds: int) -> None:
    """Print the seconds of a step on two cores and on one, by round."""
    both = set(sorted(os.sched_getaffinity(0))[:2])
    unet = tiny.pipeline().unet
    bind(both)
    step_s(unet, STEPS)
    found = []
    for _ in range(rounds):
        bind(both)
        on_two = step_s(unet, STEPS)
        bind({min(both)})
        found.append((on_two, step_s(unet, 2)))  # at worst these take seconds each
    print(json.dumps(found))


def apart(spin: str, rounds: int) -> list[tuple[float, float]]:
    environ = {**os.environ, "GOMP_SPINCOUNT": spin, "OMP_NUM_THREADS": "2"}
    environ.pop("OMP_WAIT_POLICY", None)
    command = [sys.executable, "-m", "bench.spin", "--inner", "--rounds", str(rounds)]
    done = subprocess.run(command, check=True, env=environ, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return [(on_two, on_one) for on_two, on_one in json.loads(done.stdout.splitlines()[-1])]


def steps(rounds: int) -> None:
    rows = []
    for spin in (OWN, OURS):
        found = apart(spin, rounds)
        ratio = tables.median(on_one / on_two for on_two, on_one in found)
        rows.append(
            (spin, *(f"{1e3 * tables.median(column):.1f}" for column in zip(*found, strict=True)), f"{ratio:.1f}")
        )
    tables.publish(
        "spin",
        "## A step of two threads on two cores and on one",
        f"Milliseconds, median of {rounds} rounds in one process each. The bar of {OURS}: {BAR:g}.",
        tables.table(("GOMP_SPINCOUNT", "two cores", "one core", "ratio"), rows),
    )


def rate(spin: str, requests: int, clients: int) -> float:
    """Pictures a second of a server that always has work."""
    with (
        tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder,
        start(Path(folder), environment={"GOMP_SPINCOUNT": spin}, devices="cpu", threads=2) as running,
        ThreadPoolExecutor(clients) as pool,
    ):

        def draw(seed: int) -> None:
            fields = {"model": "darkroom-mini", "size": "128x128", "quality": "hd"}
            running.draw(prompt=f"a red apple, {seed}", seed=seed, **fields).raise_for_status()

        list(pool.map(draw, range(requests, requests + clients)))  # warms up
        began = time.perf_counter()
        list(pool.map(draw, range(requests)))
        return requests / (time.perf_counter() - began)


def pictures(rounds: int, requests: int, clients: int) -> None:
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for spin in (OWN, OURS) if number % 2 else (OURS, OWN):
            found[spin].append(rate(spin, requests, clients))
        print(f"round {number + 1} of {rounds}", flush=True)
    ratios = [ours / own for own, ours in zip(found[OWN], found[OURS], strict=True)]
    rows = [
        (spin, ", ".join(f"{value:.2f}" for value in found[spin]), f"{tables.median(found[spin]):.2f}")
        for spin in (OWN, OURS)
    ]
    tables.publish(
        "spin-pictures",
        f"## Pictures a second of a server with {clients} clients",
        tables.table(("GOMP_SPINCOUNT", "by round", "median"), rows),
        f"Ratio of {OURS} to {OWN}, median of the rounds' own: {tables.median(ratios):.3f}; the bar:"
        f" {1 - LOSS_BAR:.2f}.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="the median of so many is printed (default: 7)")
    parser.add_argument("--pictures", action="store_true", help="measure pictures a second instead")
    parser.add_argument("--requests", type=int, default=96, help="with --pictures: of each server (default: 96)")
    parser.add_argument("--clients", type=int, default=16, help="with --pictures: at a time (default: 16)")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        inner(arguments.rounds)
    elif arguments.pictures:
        pictures(arguments.rounds, arguments.requests, arguments.clients)
    else:
        steps(arguments.rounds)


if __name__ == "__main__":
    main()
