"""A checkpoint of real size: how long does it load, how much memory does that take, are its tensors those written?

    python -m bench.single_file            # SD 1.5 in fp16, 2.1 GB of random weights, written and removed again
    python -m bench.single_file --base sdxl --dtypes float16

Each load is a process of its own. CPU seconds rather than seconds on the clock: a busy machine disturbs them less.
docs/models.md has its figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pipelines.facts import checkpoint, model_files
from pipelines.facts.checkpoint import ARCHITECTURES, BASES
from pipelines.models import dry_run, loader
from pipelines.plan import ModelPlan
from tests import original_layout

_MIB = 1 << 20


def plan_of(file: Path, base: str, dtype: str) -> ModelPlan:
    return ModelPlan("m", str(ARCHITECTURES / base), "auto", dtype=dtype, checkpoint=str(file))


def write(file: Path, base: str) -> None:
    """A checkpoint of this base in fp16; always the same numbers."""
    tensors = original_layout.checkpoint(original_layout.modules(ARCHITECTURES / base, empty=True))
    generator = torch.Generator().manual_seed(7)
    original_layout.write(file, {name: _numbers(tensor, generator) for name, tensor in tensors.items()})


def _numbers(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (torch.randn(tensor.shape, generator=generator) * 0.02).half()


def load(file: Path, base: str, dtype: str) -> dict[str, Any]:
    """One load, measured in this process."""
    loader.quiet_libraries()
    plan = plan_of(file, base, dtype)
    started, worked = time.monotonic(), time.process_time()
    model = loader.load(plan, torch.device("cpu"))
    measured = {"seconds": time.monotonic() - started, "cpu_s": time.process_time() - worked}
    memory = {"peak_mib": _memory("VmHWM"), "anon_mib": _memory("RssAnon")}
    written = original_layout.checkpoint(
        {name: part for name, part in model.components.items() if isinstance(part, torch.nn.Module)}
    )
    header = checkpoint.checkpoint(file)
    differ = _differ(file, written)
    return {
        **{name: round(value, 1) for name, value in measured.items()},
        **memory,
        "weights_mib": model.weight_bytes() // _MIB,
        "foretold_mib": loader.weight_bytes(plan, torch.device("cpu")) // _MIB,
        "tensors": len(written),
        "differ": differ,
        "base": header.base,
    }


def _differ(file: Path, loaded: dict[str, torch.Tensor]) -> int:
    """How many tensors are not what the file has, in the dtype that they were loaded in."""
    import safetensors

    wrong = 0
    with safetensors.safe_open(str(file), framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118, no mapping
            there = loaded.get(name)
            wrong += there is None or not torch.equal(stored.get_tensor(name).to(there.dtype), there)
    return wrong


def _memory(key: str) -> int:
    """MiB of this process's memory: VmHWM is its peak, RssAnon what is no page of a file now (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=BASES, default="sd15")
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16", "float32"])
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load is not None:
        print(json.dumps(load(arguments.load, arguments.base, arguments.dtypes[0])))
        return
    loader.quiet_libraries()
    with tempfile.TemporaryDirectory(prefix="darkroom-single-file-") as folder:
        file = Path(folder) / f"{arguments.base}.safetensors"
        write(file, arguments.base)
        plan = plan_of(file, arguments.base, "auto")
        started = time.process_time()
        told = checkpoint.checkpoint(file)
        print(f"{file.stat().st_size / 1e9:.2f} GB; told to be {told.base} in {_ms(started)} CPU ms")
        started = time.process_time()
        problem = model_files.problem(plan) or dry_run.problem(plan)
        print(f"checked in {_ms(started)} CPU ms: {problem or 'ok'}")
        for dtype in arguments.dtypes:
            command = (sys.executable, "-m", "bench.single_file", "--base", arguments.base, "--dtypes", dtype, "--load")
            done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=True)
            print(f"{dtype}: {done.stdout.splitlines()[-1]}", flush=True)


def _ms(started: float) -> int:
    return round(1000 * (time.process_time() - started))


if __name__ == "__main__":
    main()
