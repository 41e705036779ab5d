"""Mixed requests to bare diffusers, one after another, and to the server over HTTP, all at once.

Knows random weights of real size, a folder that the server loads, and HTTP. Both draw the same prompts, seeds and
steps; the bare script is what a user would have without a server.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.gpu import OUT, ROOT

_READY_S = 150.0
_REQUEST_S = 120.0
_MODELS = (("sd15", 512), ("sdxl", 1024))
_REQUESTS, _REHEARSED_REQUESTS = 24, 4
_MIN_STEPS, _MAX_STEPS = 10, 30


@dataclass(frozen=True)
class Request:
    """One picture: what both sides draw."""

    prompt: str
    seed: int
    steps: int
    guidance: float


def requests(count: int, guidance: float, *, most_steps: int = _MAX_STEPS) -> list[Request]:
    """Mixed ones, always the same."""
    chance = random.Random(0)
    return [
        Request(
            f"picture number {number}",
            number,
            chance.randint(min(_MIN_STEPS, most_steps), most_steps),
            chance.choice([1.0, guidance, guidance + 1]),
        )
        for number in range(count)
    ]


def bare(pipeline: Any, load: list[Request], side: int, device: str) -> dict[str, float]:
    """One after another, as a script draws them."""
    latencies = []

    def one(request: Request) -> None:
        pipeline(
            prompt=request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            width=side,
            height=side,
            generator=torch.Generator("cpu").manual_seed(request.seed),
        )

    one(load[0])
    started = time.perf_counter()
    for request in load:
        one(request)
        latencies.append(time.perf_counter() - started)  # all arrive at once, and wait their turn
    if device == "cuda":
        torch.cuda.synchronize()
    return _summary(latencies)


def served(address: str, load: list[Request], side: int) -> dict[str, float]:
    """All at once over HTTP."""
    with httpx.Client(base_url=address, timeout=_REQUEST_S, trust_env=False) as client:

        def one(request: Request) -> float:
            body = {
                "model": "bench",
                "prompt": request.prompt,
                "seed": request.seed,
                "num_inference_steps": request.steps,
                "guidance_scale": request.guidance,
                "size": f"{side}x{side}",
                "response_format": "b64_json",
            }
            answer = client.post("/v1/images/generations", json=body)
            answer.raise_for_status()
            return time.perf_counter() - started

        started = time.perf_counter()
        first = one(load[0])
        started = time.perf_counter()
        again = one(load[0])
        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(len(load)) as pool:
            latencies = list(pool.map(one, load))
    return {"first_s": round(first, 3), "again_s": round(again, 3), **_summary(latencies)}


def _summary(latencies: list[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        "pictures_a_second": round(len(ordered) / ordered[-1], 3),
        "mean_s": round(statistics.mean(ordered), 3),
        "p95_s": round(ordered[int(0.95 * (len(ordered) - 1))], 3),
    }


@contextlib.contextmanager
def server(folder: Path, side: int, device: str) -> Iterator[tuple[str, float]]:
    """A server of one model, until the block ends: its address, and the seconds from start to ready."""
    with tempfile.TemporaryDirectory() as made:
        models = Path(made) / "models.yaml"
        entry = f"path: {folder}, native_size: {side}x{side}, sizes: any, default_size: {side}x{side}, preload: true"
        models.write_text(f"default: bench\nmodels:\n  bench: {{ {entry} }}\n", encoding="utf-8")
        flags = ["--models", str(models), "--port", "0", "--data-dir", made, "--device", device]
        started = time.monotonic()
        log = OUT / f"gpu-server-{side}.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve", *flags],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
        assert process.stdout is not None
        try:
            address = process.stdout.readline().rpartition(" ")[2].strip()
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{address}/readyz", trust_env=False).status_code == 200:
                        break
                if time.monotonic() - started > _READY_S or process.poll() is not None:
                    raise SystemExit(f"the server did not become ready; {log} says why")
                time.sleep(0.2)
            yield address, time.monotonic() - started
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
            process.stdout.close()


def _real(name: str, device: str) -> Any:
    from pipelines.doctor import random_weights
    from pipelines.models.device import choose_dtype

    where = torch.device(device)
    return random_weights.pipeline(name, where, choose_dtype("auto", where)).to(where)


def _one(name: str, side: int, count: int, device: str, guidance: float, *, rehearse: bool) -> dict[str, Any]:
    from bench import tiny

    pipeline = tiny.pipeline() if rehearse else _real(name, device)
    load = requests(count, guidance, most_steps=3 if rehearse else _MAX_STEPS)
    found: dict[str, Any] = {"model": name, "side": side, "requests": count}
    with torch.no_grad():
        found["bare"] = bare(pipeline, load, side, device)
    print(json.dumps(found), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        del pipeline
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        with server(Path(folder), side, device) as (address, ready_s):
            found["start_to_ready_s"] = round(ready_s, 1)
            found["server"] = served(address, load, side)
    found["gain"] = round(found["server"]["pictures_a_second"] / found["bare"]["pictures_a_second"], 2)
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_load")
    parser.add_argument("--rehearse", action="store_true", help="a small model on the CPU")
    rehearse = parser.parse_args().rehearse
    OUT.mkdir(parents=True, exist_ok=True)
    if not rehearse and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: --rehearse runs it on the CPU")
    models = [("tiny", 64)] if rehearse else list(_MODELS)
    device = "cpu" if rehearse else "cuda"
    count = _REHEARSED_REQUESTS if rehearse else _REQUESTS
    found = []
    for name, side in models:
        found.append(_one(name, side, count, device, 6.0, rehearse=rehearse))
        (OUT / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
