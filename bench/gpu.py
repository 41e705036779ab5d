"""One command for a GPU that is to be had for a quarter of an hour: the doctor, the tests, a bench.

``python -m bench.gpu`` runs ``darkroom doctor --gpu``, the tests marked cuda, and mixed requests to bare diffusers and,
over HTTP, to the server, with random weights of real size: Stable Diffusion 1.5 at 512 x 512, SDXL at 1024 x 1024.
``--rehearse`` does the same with small models on the CPU: there the figures mean nothing. docs/gpu.md says what to
carry to such a machine. Figures are printed as they come, and go to bench/out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "out"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small models")
    parser.add_argument("--minutes", type=float, default=14.0, help="for all of it (default: 14)")
    parser.add_argument("--skip", action="append", default=[], choices=["doctor", "tests", "bench"])
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    OUT.mkdir(parents=True, exist_ok=True)
    codes = {}
    # The bench first: it is what nobody could measure before, and the doctor takes what time is left.
    if "bench" not in arguments.skip:
        codes["bench"] = _apart(["-m", "bench.gpu_load", *["--rehearse"] * arguments.rehearse], until, 300.0)
    if "tests" not in arguments.skip:
        codes["tests"] = _apart(["-m", "pytest", "-q", "-m", "cuda", "tests/gpu"], until, 150.0)
    if "doctor" not in arguments.skip:
        left_s = max(60.0, until - time.monotonic())
        flags = ["--gpu", "--minutes", f"{min(10.0, left_s / 60):.2f}", "--out", str(OUT / "doctor.json")]
        codes["doctor"] = _apart(
            ["-m", "server", "doctor", *flags, *["--model", "darkroom-mini"] * arguments.rehearse],
            until,
            left_s + 30.0,
            DARKROOM_DEVICE="cpu" if arguments.rehearse else "cuda",
        )
    print(json.dumps(codes))
    raise SystemExit(max(codes.values(), default=0))


def _apart(arguments: list[str], until: float, most_s: float, **environ: str) -> int:
    """Run a part in a process group of its own, which is ended where it takes too long."""
    print(f"==== {' '.join(arguments)}", flush=True)
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environ}, start_new_session=True
    )
    try:
        return process.wait(timeout=max(1.0, min(most_s, until + 30.0 - time.monotonic())))
    except subprocess.TimeoutExpired:
        print("its time was over", flush=True)
        return 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
