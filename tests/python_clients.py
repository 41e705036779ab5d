"""Python programs of tests/clients/sdapi: run in an environment of their own, and what a program printed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.running import ROOT

PROGRAMS = ROOT / "tests" / "clients" / "sdapi"


def python() -> Path:
    """The interpreter of the environment that has the clients. Skips where nobody has made it."""
    found = Path(os.environ.get("DARKROOM_TEST_CLIENTS", ROOT / ".venv-clients")) / "bin" / "python"
    if not found.exists():
        pytest.skip("needs the programs that speak AUTOMATIC1111's API: make clients")
    return found


def report(program: str, cases: list[dict[str, Any]], folder: Path, **environment: str) -> dict[str, dict[str, Any]]:
    """Run a program over ``cases``, without proxies, keys or a home of the user's. Returns what it reported of each."""
    clean = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [str(python()), "-I", "-c", _START, str(PROGRAMS), program],
        env={**clean, "HOME": str(folder), "CASES": json.dumps(cases), "OUT": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["case"] for line in lines] == [case["name"] for case in cases], done.stderr
    return {line["case"]: line for line in lines}


# Isolated from this repository's packages and from the user's, but for the programs' own folder.
_START = (
    "import runpy, sys; folder, name = sys.argv[1:]; sys.path.insert(0, folder); runpy.run_path(f'{folder}/{name}')"
)
