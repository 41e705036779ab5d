"""Two replicas of a real Ray on the CPU, and what kills may do to them: nobody's work but what died is lost.

The rest is tried without Ray in tests/unit/worker/ray.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.running import ROOT, Running, eventually, start

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'darkroom[ray]'"),
    pytest.mark.timeout(600),
]

STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("ran", ray.get(ray.remote(lambda: "code").remote()))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that has started Ray, with two replicas."""
    with start(tmp_path_factory.mktemp("ray"), cluster="local", devices="cpu,cpu") as running:
        yield running
        assert running.stop() == 0, running.log
        assert not [each for each in running.lines if "Traceback" in each]


def address(running: Running) -> str:
    found = re.search(r'"cluster joined".*?"address": "([^"]+)"', running.log)
    assert found is not None, running.log
    return found[1]


def replicas(running: Running) -> list[psutil.Process]:
    tree = psutil.Process(running.process.pid).children(recursive=True)
    return [
        each for each in tree if each.status() != psutil.STATUS_ZOMBIE and "ServeReplica" in " ".join(each.cmdline())
    ]


def draw(running: Running, steps: int, timeout_s: float = 300) -> int:
    fields = {"prompt": f"a red apple of {steps}", "num_inference_steps": steps, "size": "256x256"}
    with running.client(timeout=timeout_s) as client:
        return client.post("/v1/images/generations", json=fields).status_code


def drawings(running: Running) -> list[int]:
    with running.client() as client:
        return [device["drawings"] for device in client.get("/readyz").json()["devices"]]


def steps(running: Running) -> list[float]:
    with running.client() as client:
        devices = [device["name"] for device in client.get("/readyz").json()["devices"]]
    return [running.metric("darkroom_device_steps_total", device=device) for device in devices]


def rows(running: Running) -> float:
    return running.metric("darkroom_engine", counter="unet_rows")


def test_drawings_are_spread_over_the_replicas(cluster: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(draw, cluster, 4) for _ in range(4)]
        eventually(lambda: min(drawings(cluster)) > 0)
        assert [end.result() for end in ends] == [200] * 4
    assert len(drawings(cluster)) == 2


def test_a_process_without_the_token_runs_nothing(cluster: Running) -> None:
    loopback = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    for mode in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, address(cluster)],
            env={**loopback, **mode},
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "Failed to connect to Ray cluster" in done.stderr
    token = cluster.data_dir / "ray_token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_server_with_another_token_ends_and_says_what_to_do(cluster: Running, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--port", "0", "--cluster", address(cluster)],
        env={**os.environ, "RAY_AUTH_TOKEN": "0" * 64, "DARKROOM_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr.splitlines()[-1]
    assert "0" * 64 not in done.stderr


def test_a_client_that_leaves_cancels_in_the_replica(cluster: Running) -> None:
    before = rows(cluster)
    with pytest.raises(httpx.ReadTimeout):
        draw(cluster, 150, timeout_s=2)
    eventually(lambda: sum(drawings(cluster)) == 0)
    eventually(lambda: rows(cluster) > before)  # told when a run has ended, not before
    assert rows(cluster) - before < 300


def test_a_front_that_is_killed_leaves_nothing_drawing(cluster: Running, tmp_path: Path) -> None:
    own = {"RAY_AUTH_TOKEN_PATH": str(cluster.data_dir / "ray_token")}
    before = rows(cluster)
    with start(tmp_path, cluster=address(cluster), environment=own) as second, ThreadPoolExecutor(1) as pool:
        pool.submit(draw, second, 150)
        eventually(lambda: sum(drawings(second)) == 1)
        eventually(lambda: second.metric("darkroom_steps_total") > 0)
        second.process.kill()
        eventually(lambda: rows(cluster) > before)  # told when a run has ended, not before
    assert rows(cluster) - before < 300
    assert draw(cluster, 2) == 200


def test_a_replica_that_is_killed_costs_its_own_drawings_and_is_replaced(cluster: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(draw, cluster, 30) for _ in range(4)]
        eventually(lambda: drawings(cluster) == [2, 2])
        before = steps(cluster)
        # Both have begun with both of theirs: what a replica has not come to is drawn by the other.
        eventually(lambda: all(now >= then + 8 for now, then in zip(steps(cluster), before, strict=True)))
        replicas(cluster)[0].kill()
        assert sorted(end.result() for end in ends) == [200, 200, 503, 503]
    with cluster.client() as client:
        assert client.get("/readyz").status_code == 200, "the other serves"
    eventually(lambda: len(drawings(cluster)) == 2, within_s=120)
    assert draw(cluster, 2) == 200
