"""Three Ray nodes on this machine, a replica on each: spread, a node killed, 1 → 3 → 1 by the jobs that there are.

    python -m tests.cluster.scale             # all of it
    python -m tests.cluster.scale fixed       # spread and a kill alone
    python -m tests.cluster.scale declared    # scaling, and settings that change in place

It prints a table as it goes, and ends with 1 where something is not as docs/cluster.md says. It takes some minutes and
about 4 GB, needs Ray (pip install 'darkroom[ray]'), and starts nothing beyond loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.nodes import Nodes
from tests.running import ROOT, Running, eventually, start

NAMES = ("head", "second", "third")
CONFIG = ROOT / "deploy" / "serve.yaml"
DRAWINGS = 12
PATIENT_S = 240.0
SHUTDOWN = "import ray; from ray import serve; ray.init('auto', namespace='darkroom'); serve.shutdown()"


class Report:
    """What was seen, row by row."""

    def __init__(self) -> None:
        self.failed = False

    def row(self, what: str, seen: str, *, holds: bool = True) -> None:
        self.failed = self.failed or not holds
        print(f"| {what} | {seen} | {'yes' if holds else 'NO'} |", flush=True)


class Load:
    """Clients that ask again as soon as they are answered, until they are to stop."""

    def __init__(self, front: Running, clients: int, steps: int) -> None:
        self._front = front
        self._steps = steps
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self.answers: Counter[int] = Counter()
        self._clients = [self._pool.submit(self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self._over.is_set():
            self.answers[draw(self._front, self._steps)[0]] += 1

    def stop(self) -> Counter[int]:
        """Let what is asked be answered, and say how."""
        self._over.set()
        for client in self._clients:
            client.result()
        self._pool.shutdown()
        return self.answers


def draw(front: Running, steps: int) -> tuple[int, float]:
    """The status of one request, and when it came."""
    fields = {"prompt": f"a red apple of {steps}", "num_inference_steps": steps, "size": "256x256"}
    with front.client(timeout=PATIENT_S) as client:
        return client.post("/v1/images/generations", json=fields).status_code, time.monotonic()


def devices(front: Running) -> dict[str, int]:
    """The drawings of each device that is up and has loaded its models."""
    with front.client() as client:
        found = client.get("/readyz").json()["devices"]
    loaded = [device for device in found if set(device["models"].values()) == {"ready"}]
    return {device["name"]: device["drawings"] for device in loaded if device["state"] == "up"}


def seconds(until: Callable[[], Any]) -> float:
    """How long until this is true."""
    began = time.monotonic()
    eventually(until, within_s=PATIENT_S, every_s=0.1)
    return time.monotonic() - began


def deploy(nodes: Nodes, folder: Path, **changed: Any) -> None:
    """Declare the application by deploy/serve.yaml, with quicker delays, on the CPU."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    (application,) = config["applications"]
    application["args"]["device"] = "cpu"
    (deployment,) = application["deployments"]
    deployment["autoscaling_config"] |= {"target_ongoing_requests": 2, "upscale_delay_s": 2, "downscale_delay_s": 10}
    deployment["user_config"] |= {"data_dir": str(folder / "replicas"), "threads": 1, **changed}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    serve = [sys.executable, "-m", "ray.serve.scripts", "run", "--non-blocking", f"--address={nodes.address}"]
    _run(nodes, [*serve, str(path)])


def _run(nodes: Nodes, command: list[str]) -> None:
    environment = {**nodes.environment, "RAY_ADDRESS": nodes.address}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        said = done.stdout[-2000:] + done.stderr[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")


@contextmanager
def front(nodes: Nodes, folder: Path, **settings: Any) -> Iterator[Running]:
    """A front that has joined."""
    own = {name: value for name, value in nodes.environment.items() if name.startswith(("RAY_", "PYTHONPATH"))}
    with start(folder, cluster=nodes.address, threads=1, environment=own, within_s=600, **settings) as running:
        try:
            yield running
            assert running.stop() == 0, running.log
        finally:
            (folder / "front.log").write_text(running.log, encoding="utf-8")


def spread(report: Report, running: Running, nodes: Nodes) -> None:
    took_s = seconds(lambda: len(devices(running)) == 3)
    homes = [len(nodes.replicas(name)) for name in NAMES]
    said = f"{homes}, {took_s:.0f} s after the first"
    report.row("`--cluster-replicas 3`: replicas on each of three nodes", said, holds=homes == [1, 1, 1])
    load = Load(running, clients=6, steps=8)
    busiest: Counter[str] = Counter()
    for _ in range(30):
        busiest |= Counter(devices(running))
        time.sleep(0.2)
    answers = load.stop()
    said = f"{sorted(busiest.values())}; answers {dict(answers)}"
    holds = len(+busiest) == 3 and set(answers) == {200}
    report.row("6 clients: most drawings at a time on each", said, holds=holds)


def node_killed(report: Report, running: Running, nodes: Nodes) -> None:
    with ThreadPoolExecutor(DRAWINGS) as pool:
        ends: list[Future[tuple[int, float]]] = [pool.submit(draw, running, 40) for _ in range(DRAWINGS)]
        # How many each has is the rule's choice, by what steps take there: of twelve, some.
        eventually(lambda: sum(now := devices(running).values()) == DRAWINGS and min(now) > 0, every_s=0.02)
        steps = running.metric("darkroom_steps_total")
        eventually(lambda: running.metric("darkroom_steps_total") > steps + 3, every_s=0.02)
        before, killed = devices(running), time.monotonic()
        nodes.kill("third")
        answers = [end.result() for end in ends]
    lost_s = [at - killed for status, at in answers if status == 503]
    counts = Counter(status for status, _ in answers)
    had = sum(drawings for name, drawings in before.items() if name not in devices(running))
    said = f"it had {had}; answers {dict(counts)}; the 503 {max(lost_s, default=0.0):.1f} s later"
    report.row(
        f"a node of three killed under {DRAWINGS} drawings",
        said,
        holds=counts == {200: DRAWINGS - had, 503: had} and had > 0,
    )
    with ThreadPoolExecutor(6) as pool:
        after = Counter(status for status, _ in pool.map(lambda _: draw(running, 8), range(6)))
    report.row("6 more at once, on the two that are left", f"answers {dict(after)}", holds=set(after) == {200})
    nodes.start("third")
    took_s = seconds(lambda: len(devices(running)) == 3)
    report.row("a node joins again: three replicas", f"{took_s:.0f} s later")


def scaled(report: Report, running: Running) -> None:
    report.row("declared 1..3: replicas without work", str(len(devices(running))), holds=len(devices(running)) == 1)
    load = Load(running, clients=9, steps=12)
    up_s = seconds(lambda: len(devices(running)) == 3)
    time.sleep(10)
    answers = load.stop()
    report.row("9 clients: 1 → 3", f"{up_s:.0f} s; answers {dict(answers)}", holds=set(answers) == {200})
    # Both are on replicas that may have to leave: what these have accepted they end.
    load = Load(running, clients=2, steps=100)
    down_s = seconds(lambda: len(devices(running)) == 1)
    answers = load.stop()
    said = f"{down_s:.0f} s; answers {dict(answers)}"
    report.row("2 clients with long drawings: 3 → 1", said, holds=set(answers) == {200})


def changed_in_place(report: Report, running: Running, nodes: Nodes, folder: Path) -> None:
    def pids() -> tuple[set[int], set[int]]:
        replicas = {each.pid for name in NAMES for each in nodes.replicas(name)}
        return replicas, {each.pid for name in NAMES for each in nodes.workers(name)}

    seconds(lambda: len(pids()[0]) == 1)  # those that left have ended what they had
    before = pids()
    deploy(nodes, folder, device_memory="50%")
    took_s = seconds(lambda: (now := pids())[1] and not now[1] & before[1] and len(devices(running)) == 1)
    kept = before[0] == pids()[0]
    status, _ = draw(running, 4)
    said = f"the same replica, another worker process {took_s:.0f} s later; answer {status}"
    report.row("`user_config` changed", said, holds=kept and status == 200)


def main(arguments: Sequence[str]) -> int:
    wanted = arguments or ("fixed", "declared")
    report = Report()
    folder = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))
    nodes = Nodes(folder)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before\n")
    print("| what | seen | as it is to be |\n|---|---|---|", flush=True)
    try:
        for name in NAMES:
            nodes.start(name)
        if "fixed" in wanted:
            with front(nodes, folder / "a", devices="cpu", cluster_replicas=3) as running:
                spread(report, running, nodes)
                node_killed(report, running, nodes)
            _run(nodes, [sys.executable, "-c", SHUTDOWN])
        if "declared" in wanted:
            deploy(nodes, folder)
            with front(nodes, folder / "b", cluster_replicas="declared") as running:
                scaled(report, running)
                changed_in_place(report, running, nodes, folder)
    except BaseException:
        print(f"\nlogs: {folder}", file=sys.stderr)
        raise
    finally:
        nodes.close()
    if report.failed:
        print(f"\nlogs: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    print(f"\nload {os.getloadavg()[0]:.1f} after")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
