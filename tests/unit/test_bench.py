"""The benches, as far as they are not run here: what they start ends with them, and what they quote has a source."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest

from tests.running import ROOT, eventually

FIGURES = json.loads((ROOT / "bench" / "field.json").read_text(encoding="utf-8"))
STARTS = """
import time
from bench import apart
apart.end_on_signals()
with apart.process(["-c", "import time; time.sleep(120)"], cwd=apart.Path(".")) as started:
    print(started.pid, flush=True)
    time.sleep(120)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end it")
@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_what_a_bench_starts_ends_with_it(how: str) -> None:
    """A bench that was cut off left a server with the device's memory behind."""
    with subprocess.Popen([sys.executable, "-c", STARTS], cwd=ROOT, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        started = int(bench.stdout.readline())
        assert psutil.pid_exists(started)
        getattr(bench, how)()
        bench.wait(30)
    eventually(lambda: not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure['model']} {figure['device']}")
def test_what_others_have_published_has_its_hardware_and_its_source(figure: dict[str, object]) -> None:
    assert all(figure[name] for name in ("model", "what", "side", "device", "source"))
    assert figure.keys() <= {"model", "what", "side", "seconds", "device", "source", "bench"}
