"""What does the check at load take? Forwards, decodes and CPU seconds, of a model of real size with random weights.

    python -m bench.load_check                     # SD 1.5 in bfloat16 on the CPU: 2 GB of memory, some minutes
    python -m bench.load_check sd15 --threads 4    # one thread by default: its CPU seconds are the truest figure

No file is read and nothing is fetched. The scheduler of SD 1.5 is the one that its folder names, which takes a step
more than it is asked for.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from typing import Any

import diffusers
import torch

from pipelines.doctor import random_weights
from pipelines.engine.shared import SharedModule
from pipelines.models import selfcheck
from pipelines.plan import ModelPlan

_PNDM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
}


def count(shared: SharedModule, calls: Counter[str]) -> None:
    """Count what the module is called with from now on: calls, rows, CPU seconds."""
    real = shared.function

    def function(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        output = real(*args, **kwargs)
        seconds = time.process_time() - started
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        calls[f"{shared.name} calls"] += 1
        calls[f"{shared.name} rows"] += len(first)
        print(f"  {shared.name} {tuple(first.shape)}: {seconds:.1f} CPU s", flush=True)
        return output

    shared.function = function


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="sd15", choices=sorted(random_weights.MODELS))
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, device = random_weights.MODELS[options.model], torch.device("cpu")
    pipeline = random_weights.pipeline(options.model, device, getattr(torch, options.dtype))
    if options.model == "sd15":
        pipeline.scheduler = diffusers.PNDMScheduler(**_PNDM)
    plan = ModelPlan(options.model, "", size.family, native_width=size.side, native_height=size.side)
    model = random_weights.place(plan, pipeline, device)
    calls: Counter[str] = Counter()
    for shared in model.shared_modules.values():
        count(shared, calls)
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    verdict = selfcheck.check(model)
    wall_s, cpu_s = time.monotonic() - started_s, time.process_time() - started_cpu_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{options.model}, {options.dtype}, {options.threads} threads: {dict(calls)}")
    print(f"{cpu_s:.0f} CPU s, {wall_s:.0f} s, peak {peak_mib} MiB, shared: {verdict.shares} {verdict.reason}")
    for name, module in verdict.modules.items():
        print(f"{name}: {module.costs}")


if __name__ == "__main__":
    main()
