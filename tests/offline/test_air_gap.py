"""Nothing is ever asked of another machine: the demo, from start to picture, watched and without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import ROOT

# In a new network namespace even loopback is down.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
os.execv(sys.argv[1], sys.argv[1:])
"""
ISOLATED = ["unshare", "--net", sys.executable, "-S", "-c", LOOPBACK_UP]


def can_isolate() -> bool:
    try:
        return subprocess.run([*ISOLATED, "/bin/true"], capture_output=True).returncode == 0
    except OSError:
        return False


@dataclass
class Demo:
    isolated: bool
    output: str
    pictures: list[Path]
    started: list[str]  # command lines of the Python processes
    reached: list[tuple[str, str]]  # event, target


def watch(command: list[str], folder: Path) -> tuple[list[str], list[tuple[str, str]], str]:
    record = folder / "whom.tsv"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    environment |= {"PYTHONPATH": str(Path(__file__).parent), "WHOM": str(record), "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("\t", 2)[1:] for line in record.read_text().splitlines()]
    started = [target for event, target in rows if event == "start"]
    return started, [(event, target) for event, target in rows if event != "start"], done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    isolated = can_isolate()
    command = [sys.executable, "-m", "server", "demo", "--out", str(folder / "out"), "-n", "1"]
    started, reached, output = watch([*ISOLATED, *command] if isolated else command, folder)
    return Demo(isolated, output, sorted((folder / "out").iterdir()), started, reached)


def is_local(target: str) -> bool:
    return any(name in target for name in ("127.0.0.1", "::1", "localhost")) or target[:2] in ("b'", "''", "'/")


def test_the_watch_sees_a_connection(tmp_path: Path) -> None:
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), timeout=0.01)\nexcept OSError: pass"
    _, reached, _ = watch([sys.executable, "-c", code], tmp_path)
    assert any("192.0.2.1" in target and not is_local(target) for _, target in reached)


def test_the_demo_draws(demo: Demo) -> None:
    assert [path.name for path in demo.pictures] == ["demo-1.png"]
    assert demo.pictures[0].read_bytes().startswith(b"\x89PNG")
    assert str(demo.pictures[0]) in demo.output.replace("\n", "")


def test_neither_client_front_nor_worker_reaches_for_another_machine(demo: Demo) -> None:
    for part in ("'demo'", "'serve'", "server.worker.child"):
        assert any(part in line for line in demo.started), (part, demo.started)
    assert any("127.0.0.1" in target for _, target in demo.reached)
    assert [row for row in demo.reached if not is_local(row[1])] == []


def test_it_draws_where_there_is_no_network_at_all(demo: Demo) -> None:
    if not demo.isolated:
        pytest.skip("needs the right to make a network namespace (unshare --net)")
    assert demo.pictures
