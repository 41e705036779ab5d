"""Mixed requests to bare diffusers, one after another, and to the server over HTTP, all at once.

Knows random weights of real size, a folder that the server loads, and HTTP. Both draw the same prompts, seeds and
steps; the bare script is what a user would have without a server. Before that: how long the server takes to be ready
with the embedded model, on the device and on the CPU. Figures go to gpu.json as they come.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import gc
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import torch

from bench import apart, gpu_field
from bench.gpu import ROOT

_READY_S = 150.0
_REQUEST_S = 120.0
_MIN_LEFT_S = 100.0  # for another model


@dataclass(frozen=True)
class Mix:
    """A model, and what is asked of it."""

    name: str
    side: int
    requests: int
    steps: tuple[int, int]  # the fewest and the most
    guidances: tuple[float, ...]


# Stable Diffusion 1.5 and SDXL as people use them; klein as others have published it.
_MIXES = (
    Mix("sd15", 512, 24, (10, 30), (1.0, 6.0, 7.0)),
    Mix("sdxl", 1024, 24, (10, 30), (1.0, 6.0, 7.0)),
    Mix("klein-4b", 1024, 8, (4, 4), (1.0,)),
)
_REHEARSED = (Mix("tiny", 64, 4, (2, 3), (1.0, 6.0)),)


@dataclass(frozen=True)
class Request:
    """One picture: what both sides draw."""

    prompt: str
    seed: int
    steps: int
    guidance: float


def requests(mix: Mix) -> list[Request]:
    """Mixed ones, always the same."""
    chance = random.Random(0)
    return [
        Request(f"picture number {number}", number, chance.randint(*mix.steps), chance.choice(mix.guidances))
        for number in range(mix.requests)
    ]


def bare(pipeline: Any, load: list[Request], side: int, device: str) -> dict[str, float]:
    """One after another, as a script draws them."""

    def one(request: Request) -> float:
        started = time.perf_counter()
        pipeline(
            prompt=request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            width=side,
            height=side,
            generator=torch.Generator("cpu").manual_seed(request.seed),
        )
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    first, again = one(load[0]), one(load[0])
    started = time.perf_counter()
    latencies = []
    for request in load:
        one(request)
        latencies.append(time.perf_counter() - started)  # all arrive at once, and wait their turn
    return {"first_s": round(first, 3), "again_s": round(again, 3), **_summary(latencies)}


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


_SIGNS = {"worker_up": "worker up", "loaded": "model loaded", "checked": "model checked"}  # lines of the log


@dataclass(frozen=True)
class Start:
    """A server's start: when it came to what, in seconds from its process on."""

    address: str
    came_to: dict[str, float]

    @property
    def ready(self) -> float:
        return self.came_to["ready"]


@contextlib.contextmanager
def server(models: Path, device: str, log: Path) -> Iterator[Start]:
    """A server, until the block ends, once it is ready."""
    with tempfile.TemporaryDirectory() as data, log.open("w", encoding="utf-8") as errors:
        flags = ["--models", str(models), "--port", "0", "--data-dir", data, "--device", device]
        began, started = time.time(), time.monotonic()
        command = ["-m", "server", "serve", *flags]
        with apart.process(command, cwd=ROOT, environ={"HF_HUB_OFFLINE": "1"}, stderr=errors) as process:

            def wait_for(sign: Callable[[], bool]) -> float:
                while not sign():
                    if time.monotonic() - started > _READY_S or process.poll() is not None:
                        raise SystemExit(f"the server did not become ready; {log} says why")
                    time.sleep(0.2)
                return round(time.monotonic() - started, 2)

            came_to = {"listening": wait_for(lambda: _address(log) is not None)}
            address = _address(log) or ""
            ready = wait_for(lambda: _is_ready(address))
            yield Start(address, {**came_to, **_signs(log, began), "ready": ready})


def _signs(log: Path, began: float) -> dict[str, float]:
    """The seconds at which the log's first lines of each sign were written."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    found: dict[str, float] = {}
    for name, message in _SIGNS.items():
        line = next((line for line in lines if line["message"] == message), None)
        if line is not None:
            found[name] = round(datetime.fromisoformat(line["time"]).timestamp() - began, 2)
    return found


def _address(log: Path) -> str | None:
    """What the server says on the stream of its log."""
    found = re.search(r"listens on (http://\S+)", log.read_text(encoding="utf-8"))
    return None if found is None else found[1]


def _is_ready(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
    return False


def start(device: str, out: Path) -> dict[str, Any]:
    """The embedded model on the device and on the CPU: seconds to ready, and their ratio."""
    starts = {}
    for where in (device, "cpu"):
        with server(ROOT / "models.yaml", where, out / f"gpu-start-{where}.log") as begun:
            starts[where] = begun.ready
            print(json.dumps({"start": where, **begun.came_to}), flush=True)
    return {"start_to_ready_s": starts, "ratio": round(starts[device] / starts["cpu"], 2)}


def _pipeline(name: str, device: str) -> Any:
    from bench import tiny
    from pipelines.doctor import random_weights
    from pipelines.models.device import choose_dtype

    if name == "tiny":
        return tiny.pipeline()
    where = torch.device(device)
    return random_weights.pipeline(name, where, choose_dtype("auto", where)).to(where)


def draw(mix: Mix, device: str, out: Path) -> dict[str, Any]:
    """One model: bare, then served."""
    pipeline, load = _pipeline(mix.name, device), requests(mix)
    found: dict[str, Any] = {"model": mix.name, "side": mix.side, "requests": mix.requests}
    with torch.no_grad():
        found["bare"] = bare(pipeline, load, mix.side, device)
    print(json.dumps(found), flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder, models = Path(made) / "model", Path(made) / "models.yaml"
        pipeline.save_pretrained(folder)
        del pipeline
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        size = f"{mix.side}x{mix.side}"
        entry = f"path: {folder}, native_size: {size}, sizes: any, default_size: {size}, preload: true"
        models.write_text(f"default: bench\nmodels:\n  bench: {{ {entry} }}\n", encoding="utf-8")
        with server(models, device, out / f"gpu-server-{mix.name}.log") as begun:
            found["start"] = begun.came_to
            found["server"] = served(begun.address, load, mix.side)
    found["gain"] = round(found["server"]["pictures_a_second"] / found["bare"]["pictures_a_second"], 2)
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_load")
    parser.add_argument("--rehearse", action="store_true", help="a small model on the CPU")
    parser.add_argument("--seconds", type=float, default=360.0, help="no other model is begun in the last 100 of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for figures and logs")
    arguments = parser.parse_args()
    apart.end_on_signals()
    until = time.monotonic() + arguments.seconds
    if not arguments.rehearse and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: --rehearse runs it on the CPU")
    device = "cpu" if arguments.rehearse else "cuda"
    name = "the CPU, rehearsed" if arguments.rehearse else torch.cuda.get_device_name(0)
    found: dict[str, Any] = {"device": name, "start": start(device, arguments.out), "models": []}
    for mix in _REHEARSED if arguments.rehearse else _MIXES:
        if time.monotonic() > until - _MIN_LEFT_S and found["models"]:
            print(f"{mix.name} is left out: the time was over", flush=True)
            break
        found["models"].append(draw(mix, device, arguments.out))
        (arguments.out / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    ours = {each["model"]: each["server"]["again_s"] for each in found["models"]}
    print(f"\nWhat others have published, none of it measured here:\n\n{gpu_field.beside(ours, name)}", flush=True)


if __name__ == "__main__":
    main()
