"""Darkroom beside other servers: the same requests to each in turn, in one run.

    python3 -m venv peers && peers/bin/pip install litserve diffusers transformers accelerate torch
    python -m bench.beside --litserve peers/bin/python                    # 10 minutes on two quiet cores
    python -m bench.beside --litserve peers/bin/python --loads alike --latents 16

All serve bench/tiny.py's pipeline from one folder: Darkroom with its defaults, LitServe with dynamic batching of 8
within 50 ms, as its users write it, and LitServe with one request at a time, as any serial server works. All three are
up at a time, and asked in turn, so that what the machine does meanwhile befalls all. Prompts and seeds differ, and
nothing is shared between requests. It writes bench/out/beside.md.

``alike``: requests at once of equal steps and guidance. ``mixed``: of 4 to 30 steps and three guidances.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import tables, tiny
from pipelines.models import loader
from tests.running import Running, eventually, start

LITSERVE = Path(__file__).parent / "peers" / "litserve_server.py"
BATCH = 8  # LitServe's
STEPS = {"alike": (8,), "mixed": (4, 8, 12, 20, 30)}
GUIDANCE = {"alike": (3.0,), "mixed": (1.0, 3.0, 7.5)}
FIGURES = ("pictures_per_s", "mean_s", "p95_s")
THINGS = ("a cat", "a red apple", "a rocket in space", "a castle at sunset", "two dogs", "a guitar", "a slice of pizza")


@dataclass(frozen=True)
class Ask:
    """One request, in no server's words."""

    prompt: str
    steps: int
    guidance: float
    side: int  # pixels
    seed: int


@dataclass(frozen=True)
class Peer:
    """A server that runs, and how it is asked."""

    name: str
    url: str
    path: str
    body: Callable[[Ask], dict[str, Any]]


@dataclass(frozen=True)
class Round:
    """What one server made of one load."""

    pictures_per_s: float
    mean_s: float
    p95_s: float


def darkroom(server: Running) -> Peer:
    def body(ask: Ask) -> dict[str, Any]:
        return {
            "prompt": ask.prompt,
            "size": f"{ask.side}x{ask.side}",
            "num_inference_steps": ask.steps,
            "guidance_scale": ask.guidance,
            "seed": ask.seed,
            "response_format": "b64_json",
        }

    return Peer("Darkroom", server.url, "/v1/images/generations", body)


def litserve(name: str, port: int) -> Peer:
    def body(ask: Ask) -> dict[str, Any]:
        return {
            "prompt": ask.prompt,
            "width": ask.side,
            "height": ask.side,
            "steps": ask.steps,
            "guidance": ask.guidance,
            "seed": ask.seed,
        }

    return Peer(name, f"http://127.0.0.1:{port}", "/predict", body)


@contextmanager
def serving(python: str, model: Path, batch: int) -> Iterator[int]:
    """LitServe on a port of its own; ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [python, str(LITSERVE), str(model), str(port), str(batch)]
    log = model / f"litserve-{port}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, cwd=model, start_new_session=True)

    def ready() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"LitServe does not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        eventually(ready, within_s=180, every_s=0.5)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that draw, which outlive their parent
        process.wait()


def asks(load: str, count: int, side: int) -> list[Ask]:
    """The same ones at every call."""
    chance = random.Random(7)
    return [
        Ask(
            f"{chance.choice(THINGS)}, number {number}",
            chance.choice(STEPS[load]),
            chance.choice(GUIDANCE[load]),
            side,
            chance.randrange(1 << 31),
        )
        for number in range(count)
    ]


async def draw(peer: Peer, wanted: Sequence[Ask]) -> Round:
    """Ask for all at once, and wait for every picture."""
    took: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=peer.url, timeout=900, limits=limits, trust_env=False) as client:

        async def one(ask: Ask) -> None:
            began = time.perf_counter()
            answer = await client.post(peer.path, json=peer.body(ask))
            assert answer.status_code == 200, f"{peer.name}: {answer.status_code} {answer.text[:300]}"
            took.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(one(ask) for ask in wanted))
        wall_s = time.perf_counter() - began
    took.sort()
    return Round(len(took) / wall_s, sum(took) / len(took), took[int(0.95 * (len(took) - 1))])


def compare(peers: Sequence[Peer], load: str, side: int, arguments: argparse.Namespace) -> list[tuple[str, ...]]:
    """A row a server: its median figures, and Darkroom's divided by them, the median of the rounds' ratios."""
    wanted = asks(load, arguments.requests, side)
    rounds: dict[str, list[Round]] = {peer.name: [] for peer in peers}
    for number in range(arguments.rounds + 1):
        for peer in peers:
            print(f"{load}, {side} pixels, round {number} of {arguments.rounds}: {peer.name}", flush=True)
            found = asyncio.run(draw(peer, wanted))
            if number:  # the first one warms up: what steps cost is learnt, shapes are met
                rounds[peer.name].append(found)
    own = rounds[peers[0].name]
    return [(name, *(cell(own, its, figure) for figure in FIGURES)) for name, its in rounds.items()]


def cell(own: Sequence[Round], its: Sequence[Round], figure: str) -> str:
    value = tables.median(getattr(each, figure) for each in its)
    ratio = tables.median(getattr(mine, figure) / getattr(other, figure) for mine, other in zip(own, its, strict=True))
    return f"{value:.2f}" if own is its else f"{value:.2f} ({ratio:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litserve", required=True, metavar="PYTHON", help="a Python that has LitServe and diffusers")
    parser.add_argument("--loads", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--latents", nargs="+", type=int, default=[8, 16], help="a side (default: 8 16)")
    parser.add_argument("--requests", type=int, default=40, help="at once (default: 40)")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is printed (default: 3)")
    arguments = parser.parse_args()
    loader.quiet_libraries()
    parts = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.pipeline().save_pretrained(folder / "tiny")
        for latents in arguments.latents:
            side = latents * tiny.PIXELS_PER_LATENT
            models = tiny.models_file(folder, latents)
            with ExitStack() as up:
                server = up.enter_context(start(folder / f"data-{latents}", models=models, queue_size=10_000))
                many = up.enter_context(serving(arguments.litserve, folder / "tiny", BATCH))
                one = up.enter_context(serving(arguments.litserve, folder / "tiny", 1))
                peers = [
                    darkroom(server),
                    litserve(f"LitServe, batches of {BATCH}", many),
                    litserve("LitServe, one at a time", one),
                ]
                for load in arguments.loads:
                    rows = compare(peers, load, side, arguments)
                    parts.append(f"{latents}×{latents} latents, {arguments.requests} requests at once, {load}:")
                    parts.append(tables.table(("server", "pictures/s", "mean, s", "p95, s"), rows))
    tables.publish(
        "beside",
        "## Darkroom beside other servers",
        f"Median of {arguments.rounds} rounds; in brackets Darkroom's figure divided by theirs. The bars: all alike, "
        "against batches of 8: ≥ 1.0 pictures/s, ≤ 1.0 mean and p95; mixed, against one at a time: ≥ 5.0 and 2.4 "
        "pictures/s at 8×8 and 16×16.",
        *parts,
    )


if __name__ == "__main__":
    main()
