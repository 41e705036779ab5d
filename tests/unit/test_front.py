"""The front is light: no torch, little memory, up at once, one socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.running import ROOT, Running, eventually, start


def test_the_front_never_imports_torch() -> None:
    code = (
        "import sys, server.serve, server.cli, server.commands.check; "
        "heavy = ('torch', 'diffusers', 'transformers', 'accelerate', 'numpy', 'httpcore', 'httpx', 'ray', 'grpc',"
        " 'mcp'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_front_stays_under_150_mib(server: Running) -> None:
    for fields in ({}, {"n": 4}, {"response_format": "b64_json", "model": "dall-e-3", "size": "1792x1024", "n": 4}):
        assert server.draw(num_inference_steps=1, **fields).status_code == 200
    assert psutil.Process(server.process.pid).memory_info().rss < 150 * 2**20


def test_the_front_answers_while_its_worker_imports_torch_and_is_not_outlived_by_it(tmp_path: Path) -> None:
    with start(tmp_path, wait=False) as running:
        with running.client() as client:
            eventually(lambda: client.get("/livez").status_code == 200)
            assert client.get("/readyz").json()["worker"] == {"state": "starting"}
        worker = eventually(running.worker)
        running.process.kill()  # while the worker still imports torch
        running.process.wait()
        psutil.wait_procs([worker], timeout=100)
        assert not worker.is_running()


def test_one_socket_listens_in_the_whole_tree(server: Running) -> None:
    front = psutil.Process(server.process.pid)
    tree = [front, *front.children(recursive=True)]
    assert len(tree) >= 2
    listening = [
        connection.laddr
        for process in tree
        for connection in process.net_connections(kind="all")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert [address.port for address in listening] == [server.port]
    assert listening[0].ip == "127.0.0.1"
