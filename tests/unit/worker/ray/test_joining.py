"""Joining a cluster and deploying to it, with a Ray of paper."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from server.errors import ConfigError
from server.settings import Settings
from server.worker.devices import WorkerDevice
from server.worker.ray import deployment
from tests.unit.worker.ray.paper_ray import PaperRay, State

HEAD = "head:6379"
CPUS = (WorkerDevice("cpu:0", "cpu"), WorkerDevice("cpu:1", "cpu"))


def join(ray: PaperRay, address: str = HEAD, here: tuple[WorkerDevice, ...] = CPUS, **settings: Any) -> None:
    ray.cluster.Cluster(Settings(cluster=address, **settings), here).connect()


@pytest.mark.parametrize("mode", ["", "disabled"])
def test_a_cluster_that_asks_for_no_token_is_refused(paper_ray: PaperRay, mode: str) -> None:
    """`ray start` without the exports is open, and was joined with our token as if it asked for it."""
    paper_ray.modes = {"head": "token", "second": mode, "third": "TOKEN"}
    with pytest.raises(ConfigError, match=r"head:6379: second of it run what any stranger sends.*RAY_AUTH_MODE=token"):
        join(paper_ray)
    assert (paper_ray.deployed, paper_ray.shut_down) == (0, 1)


def test_a_machine_that_does_not_say_whether_it_is_open_is_refused(paper_ray: PaperRay) -> None:
    paper_ray.modes = {"head": "token", "second": None}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="second of it do not say whether they ask for the token"):
        join(paper_ray)
    assert paper_ray.deployed == 0


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_no_replica_begins_where_ray_asks_for_no_token(
    paper_ray: PaperRay, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    """A machine that came later had a replica, whose port ran anyone's pickle."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    begun: list[object] = []
    monkeypatch.setattr(paper_ray.replica, "Host", lambda *arguments: begun.append(arguments))
    with pytest.raises(RuntimeError, match="without RAY_AUTH_MODE=token"):
        paper_ray.replica.Replica(1)
    assert begun == []


@pytest.mark.anyio
async def test_ray_serve_is_told_of_a_replica_of_no_use(paper_ray: PaperRay) -> None:
    """Serve calls check_health by its name, and replaces what raises there."""
    replica = object.__new__(paper_ray.replica.Replica)
    replica._host = MagicMock()
    await replica.check_health()
    replica._host.check.side_effect = RuntimeError("machine/cuda:0: no room")
    with pytest.raises(RuntimeError, match="no room"):
        await replica.check_health()


@pytest.mark.parametrize("state", [None, State.DEPLOY_FAILED, State.DELETING])
def test_a_deployment_that_has_failed_is_made_anew(paper_ray: PaperRay, state: State | None) -> None:
    """Ray Serve never tries again what has failed: every later front waited for replicas that could not come."""
    paper_ray.state = state
    join(paper_ray)
    assert paper_ray.deployed == 1


@pytest.mark.parametrize("state", [State.RUNNING, State.DEPLOYING, State.UNHEALTHY])
def test_a_deployment_that_ray_mends_itself_is_left_alone(paper_ray: PaperRay, state: State) -> None:
    """To deploy again replaces all replicas, and other fronts draw there."""
    paper_ray.state = state
    join(paper_ray)
    assert paper_ray.deployed == 0


@pytest.mark.parametrize("address", [HEAD, "local"])
def test_a_gpu_that_is_named_is_not_replaced_by_the_cpu(paper_ray: PaperRay, address: str) -> None:
    """With --devices cuda, a head that no machine with a GPU had joined yet got one replica on its CPU, for good."""
    with pytest.raises(ConfigError, match=r"DARKROOM_DEVICES \(--devices\) = cuda: .*GPU.*join those that have one"):
        join(paper_ray, address, (WorkerDevice(setting="cuda"),) if address == "local" else (), devices="cuda")
    assert paper_ray.deployed == 0


def test_every_gpu_of_the_cluster_gets_a_replica(paper_ray: PaperRay) -> None:
    paper_ray.modes, paper_ray.gpus = {"head": "token", "second": "token"}, 2
    join(paper_ray, HEAD, (), devices="cuda")
    assert (paper_ray.options["num_replicas"], paper_ray.options["ray_actor_options"]["num_gpus"]) == (4, 1)


def test_a_replica_takes_on_what_eight_fronts_draw_at_a_time(paper_ray: PaperRay) -> None:
    """A third front that drew all it could waited in Ray Serve, and was given up after ten seconds."""
    join(paper_ray, running_jobs=64)
    assert paper_ray.options["max_ongoing_requests"] >= 8 * (64 + 2), "with the watch, and what is told"


def test_a_failed_deployment_is_not_told_as_a_machine_that_is_no_node(
    paper_ray: PaperRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever had "node" in it was: nearly all that Ray says."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Deploying application darkroom failed: no node has room")

    monkeypatch.setattr(paper_ray.cluster.serve, "run", fail)
    with pytest.raises(ConfigError, match="its replicas do not start") as refused:
        join(paper_ray)
    assert "this machine is no node" not in str(refused.value)
    assert "/tmp/ray/session_latest/logs" in str(refused.value)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Version mismatch: ray 2.59", "same versions"),
        ("No node info found when trying to resolve node to connect to.", "this machine is no node of it"),
        ("the node is full", "the log of Ray says why"),
    ],
)
def test_what_ray_says_of_joining_has_its_remedy(said: str, remedy: str) -> None:
    assert remedy in deployment.explain_joining(RuntimeError(said))
