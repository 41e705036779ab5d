"""One command for a GPU that is to be had for a quarter of an hour: the doctor, the tests, a bench.

``python -m bench.gpu`` starts the server on the device and on the CPU, sends mixed requests to bare diffusers and, over
HTTP, to the server, with random weights of real size (Stable Diffusion 1.5 at 512 x 512, SDXL and FLUX.2-klein-4B at
1024 x 1024), prints what others have published beside it, and runs the tests marked cuda and ``darkroom doctor --gpu``.
``--rehearse`` does the same with small models on the CPU: there the figures mean nothing. docs/gpu.md says what to
carry to such a machine. Figures are printed as they come, and go to bench/out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import subprocess
import time
import tomllib
from pathlib import Path

from bench import apart

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "out"
_FOR_TESTS = ("pytest", "pytest-timeout", "psutil")
_BENCH_S, _TESTS_S = 360.0, 150.0  # at most; the doctor has what is left


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small models")
    parser.add_argument("--minutes", type=float, default=14.0, help="for all of it (default: 14)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for figures and logs (default: bench/out)")
    parser.add_argument("--skip", action="append", default=[], choices=["doctor", "tests", "bench"])
    arguments = parser.parse_args()
    apart.end_on_signals()
    if lacking := missing():
        print(f"not installed here: {', '.join(lacking)}", flush=True)  # first: what fails for it costs minutes
    until = time.monotonic() + 60 * arguments.minutes
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    codes = {}
    # Threads that wait for each other on a machine that does something else take minutes for a small model.
    rehearsed = {"OMP_NUM_THREADS": "1"} if arguments.rehearse else {}
    # The bench first: it is what nobody could measure before, and the doctor takes what time is left.
    if "bench" not in arguments.skip:
        seconds = min(_BENCH_S, until - time.monotonic())
        flags = ["--seconds", f"{seconds:.0f}", "--out", str(out), *["--rehearse"] * arguments.rehearse]
        codes["bench"] = _apart(["-m", "bench.gpu_load", *flags], until, seconds, **rehearsed)
    if "tests" not in arguments.skip:
        codes["tests"] = _apart(["-m", "pytest", "-q", "-m", "cuda", "tests/gpu"], until, _TESTS_S)
    if "doctor" not in arguments.skip:
        left_s = max(60.0, until - time.monotonic())
        flags = ["--gpu", "--minutes", f"{min(10.0, left_s / 60):.2f}", "--out", str(out / "doctor.json")]
        codes["doctor"] = _apart(
            ["-m", "server", "doctor", *flags, *["--model", "darkroom-mini"] * arguments.rehearse],
            until,
            left_s,
            DARKROOM_DEVICE="cpu" if arguments.rehearse else "cuda",
            **rehearsed,
        )
    print(json.dumps(codes))
    raise SystemExit(max(codes.values(), default=0))


def missing() -> list[str]:
    """The packages that Darkroom and its tests want and that are not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [re.split(r"[\s\[<>=!~;]", each)[0] for each in (*project["dependencies"], *_FOR_TESTS)]
    return [name for name in wanted if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _apart(arguments: list[str], until: float, most_s: float, **environ: str) -> int:
    """Run a part, and end it where it takes too long."""
    print(f"==== {' '.join(arguments)}", flush=True)
    with apart.process(arguments, cwd=ROOT, environ=environ) as process:
        try:
            return process.wait(timeout=max(1.0, min(most_s, until - time.monotonic())))
        except subprocess.TimeoutExpired:
            print("its time was over", flush=True)
            return 1


if __name__ == "__main__":
    main()
