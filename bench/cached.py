"""What a step cache brings where half of the requests have one: a burst through HTTP, against the same without.

    python -m bench.cached            # 4 minutes on two quiet cores; writes bench/out/cached.md

30 requests at once of 20, 30 and 50 steps, of bench/tiny.py's pipeline with DDIM: once without a step cache, once with
``step_cache: true`` in every other one, in turn. Two fifths of a cached run's steps are left out, so a fifth of all
rows: where a step costs what its rows cost, that is 1.25 times the pictures a second.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench import tables, tiny
from pipelines.models import loader
from tests.running import start

STEPS = (20, 30, 50)
BAR, P95_BAR = 1.25, 1.0


@dataclass(frozen=True)
class Burst:
    """What became of one burst."""

    pictures_per_s: float
    mean_s: float
    plain_p95_s: float  # of the requests that have no cache in either


async def burst(url: str, requests: int, cached: bool, side: int) -> Burst:
    """All requests at once; every other one may have a cache."""
    took: dict[int, float] = {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=900, limits=limits, trust_env=False) as client:

        async def one(number: int) -> None:
            began = time.perf_counter()
            body = {
                "prompt": f"picture number {number}",
                "size": f"{side}x{side}",
                "num_inference_steps": STEPS[number // 2 % len(STEPS)],
                "guidance_scale": 3.0,
                "scheduler": "ddim",
                "seed": number,
                "step_cache": cached and number % 2 == 1,
                "response_format": "b64_json",
            }
            answer = await client.post("/v1/images/generations", json=body)
            assert answer.status_code == 200, answer.text[:300]
            took[number] = time.perf_counter() - began

        began = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(requests)))
        wall_s = time.perf_counter() - began
    plain = [seconds for number, seconds in took.items() if number % 2 == 0]
    return Burst(requests / wall_s, tables.mean(list(took.values())), tables.percentile(plain, 95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=30, help="at once (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is printed (default: 3)")
    parser.add_argument("--latents", nargs="+", type=int, default=[8, 16], help="a side (default: 8 16)")
    arguments = parser.parse_args()
    loader.quiet_libraries()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.pipeline().save_pretrained(folder / "tiny")
        for latents in arguments.latents:
            side = latents * tiny.PIXELS_PER_LATENT
            models = tiny.models_file(folder, latents)
            with start(folder / f"data-{latents}", models=models) as server:
                found: dict[bool, list[Burst]] = {False: [], True: []}
                for number in range(arguments.rounds + 1):
                    for cached in (False, True):
                        print(
                            f"{latents}×{latents}, round {number} of {arguments.rounds}, cached: {cached}", flush=True
                        )
                        burst_ = asyncio.run(burst(server.url, arguments.requests, cached, side))
                        if number:  # the first warms up
                            found[cached].append(burst_)
            for figure in ("pictures_per_s", "mean_s", "plain_p95_s"):
                without, half = ([getattr(each, figure) for each in found[cached]] for cached in (False, True))
                ratio = tables.median(after / before for before, after in zip(without, half, strict=True))
                medians = (f"{tables.median(values):.2f}" for values in (without, half))
                rows.append((f"{latents}×{latents}", figure, *medians, f"{ratio:.2f}"))
    tables.publish(
        "cached",
        f"## {arguments.requests} requests at once of 20, 30 and 50 steps, half of them with a step cache",
        f"Median of {arguments.rounds} rounds. The bars: ≥ {BAR} pictures/s; the p95 of those without a cache "
        f"≤ {P95_BAR}.",
        tables.table(("latents", "figure", "none cached", "half cached", "ratio"), rows),
    )


if __name__ == "__main__":
    main()
