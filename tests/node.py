"""Node programs of tests/clients: their packages, installed once, and what a program printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.running import ROOT

CLIENTS = ROOT / "tests" / "clients"
CLI = CLIENTS / "cli"


def install(folder: Path) -> None:
    """Install the packages that a folder's lockfile names, if it has changed. Skips where there is no Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node 20 or newer, with npm: apt-get install nodejs npm (from Debian 13 on)")
    lock = (folder / "package-lock.json").read_bytes()
    installed = folder / "node_modules" / ".installed-lock.json"  # a copy of the lockfile that was installed from
    if installed.exists() and installed.read_bytes() == lock:
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if folder == CLIENTS:  # some want peers that contradict each other and that nothing here needs
        command.append("--legacy-peer-deps")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, f"npm ci in {folder} failed; is the npm registry reachable?\n{done.stderr}"
    installed.write_bytes(lock)


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Node program in an environment without proxies, keys or a home of the user's."""
    clean = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    quiet = {"HOME": str(home), "NO_COLOR": "1", "AIGNE_OBSERVABILITY_DISABLED": "1"}
    return subprocess.run(
        ["node", *arguments],
        cwd=CLIENTS,
        env={**clean, **quiet, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def report(program: str, cases: list[dict[str, Any]], folder: Path, **environment: str) -> dict[str, dict[str, Any]]:
    """Run a program over ``cases``. Returns what it reported of each, by the case's name."""
    done = run([program], folder, CASES=json.dumps(cases), OUT=str(folder), **environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["case"] for line in lines] == [case["name"] for case in cases], done.stderr
    return {line["case"]: line for line in lines}
