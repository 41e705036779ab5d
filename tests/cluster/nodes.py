"""Ray nodes on loopback, each a tree of processes of its own: to kill the tree is what a machine's power cut is."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from tests.running import ROOT, eventually

_TRIES = 6
# `ray start` joins nothing where 127.0.0.1 is to stay what it is: told that it may, and what this machine is called.
_RAY = """
import ray._private.ray_constants as constants, ray._private.services as services
constants.ENABLE_RAY_CLUSTER = True
services.get_node_ip_address = lambda *_: "127.0.0.1"
from ray.scripts.scripts import main
main()
"""
_STORE_BYTES = 128 * 1024 * 1024


class Nodes:
    """The nodes of one cluster, by name; the first is the head. Each has one CPU: room for one replica."""

    def __init__(self, folder: Path) -> None:
        """``folder``: for the token and Ray's sessions. Its path has to be short, as Ray makes sockets in it."""
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions = folder
        self._port = _free_port()
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DARKROOM_", "RAY_"))}
        self.environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_raylet_start_wait_time_s": "120",  # a busy machine
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's own way of leaving 127.0.0.1 what it is
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self, name: str) -> None:
        """Start a node; the first is the head. Ray gives up on what a busy machine makes slow: some tries."""
        is_head, text = not self._started, self._folder / f"{name}.log"
        for left in reversed(range(_TRIES)):
            if is_head:
                self._sessions = self._folder / f"ray{left}"
            self._launch(name, text, is_head=is_head)
            if eventually(lambda: _has_started(text) or self._has_failed(name, text), within_s=200) == "started":
                return
            self.kill(name)
            if not left:
                raise RuntimeError(f"node {name} did not start:\n{text.read_text(errors='replace')[-2000:]}")

    def _launch(self, name: str, text: Path, *, is_head: bool) -> None:
        role = [f"--address={self.address}"]
        if is_head:
            role = ["--head", f"--port={self._port}", f"--temp-dir={self._sessions}", "--include-dashboard=false"]
            role += ["--no-monitor", f"--ray-client-server-port={_free_port()}"]
        command = [
            *(sys.executable, "-c", _RAY, "start", *role, "--block"),
            *("--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0", "--include-log-monitor=false"),
            *(f"--object-store-memory={_STORE_BYTES}", f"--dashboard-agent-listen-port={_free_port()}"),
        ]
        with text.open("wb") as log:
            self._started[name] = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=ROOT)

    def _has_failed(self, name: str, text: Path) -> str:
        """A head whose raylet has ended waits for it for ever."""
        raylets = [each for each in self._tree(name) if _command(each).split(" ")[0].endswith("/raylet")]
        errors = self._sessions.glob("session_latest/logs/raylet*.err")
        broken = not raylets and any(each.stat().st_size for each in errors)
        return "failed" if broken or self._started[name].poll() is not None else ""

    def replicas(self, name: str) -> list[psutil.Process]:
        """The replicas of Ray Serve on this node."""
        return [each for each in self._tree(name) if "ServeReplica" in _command(each)]

    def workers(self, name: str) -> list[psutil.Process]:
        """The processes there that compute."""
        return [each for each in self._tree(name) if "server.worker.child" in _command(each)]

    def kill(self, name: str) -> None:
        """End all processes of a node at once."""
        tree = self._tree(name)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()  # none sees another end
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._started.pop(name).wait()

    def close(self) -> None:
        for name in reversed(list(self._started)):
            self.kill(name)

    def _tree(self, name: str) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._started[name].pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _has_started(text: Path) -> str:
    return "started" if "Ray runtime started" in text.read_text(errors="replace") else ""


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
