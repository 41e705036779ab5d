"""How many replicas there are to be: what fronts tell, what replicas report, what Ray Serve is to make of it."""

from __future__ import annotations

import asyncio
import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from server.errors import ConfigError
from server.settings import Settings
from server.worker.cores import Cores
from server.worker.ray import deployment, messages, report, scaling
from tests.unit.worker.children import until
from tests.unit.worker.ray.paper import PaperCluster, ready
from tests.unit.worker.ray.paper_ray import PaperRay, State
from tests.unit.worker.ray.test_joining import CPUS, HEAD, join


def context(reports: dict[str, list[float]], *, now: int = 2, jobs: float = 8) -> Any:
    """What Ray Serve gives a policy."""
    series = {name: [SimpleNamespace(value=value) for value in values] for name, values in reports.items()}
    return SimpleNamespace(
        raw_metrics={scaling.JOBS: series} if reports else {},
        target_num_replicas=now,
        config=SimpleNamespace(get_target_ongoing_requests=lambda: jobs),
    )


def test_replicas_are_for_the_jobs_that_all_fronts_have() -> None:
    """Each replica reports the jobs of all fronts: they are not to be added up."""
    assert scaling.by_jobs(context({"a": [0, 24], "b": [24, 20], "new": [0]}))[0] == 3


def test_where_nothing_is_reported_yet_nothing_changes() -> None:
    assert scaling.by_jobs(context({}))[0] == 2
    assert scaling.by_jobs(context({"a": []}))[0] == 2


def test_the_policy_is_found_by_its_name_and_carries_nothing_of_ours() -> None:
    """Ray pickles the module by value, and the controller runs it."""
    module, _, name = "server.worker.ray.scaling:by_jobs".partition(":")
    assert getattr(importlib.import_module(module), name) is scaling.by_jobs
    assert not [
        each
        for each in vars(scaling).values()
        if getattr(each, "__module__", "").startswith("server.") and each is not scaling.by_jobs
    ]


@pytest.mark.anyio
async def test_a_replica_knows_the_jobs_of_every_front_that_is_there(cluster: PaperCluster) -> None:
    await ready(cluster, "a")
    host, lease = cluster.links["a"].host, cluster.links["a"].lease
    cluster.fleet.jobs = lambda: 7
    telling = asyncio.create_task(report.tell_jobs(cluster.fleet, 0.01))
    await until(lambda: host.jobs == 7)
    cluster.fleet.jobs = lambda: 3
    await until(lambda: host.jobs == 3)
    await host.tell(messages.encode(messages.Jobs(9)), "a front that watches nothing")
    assert host.jobs == 3
    telling.cancel()
    lease.over.set()
    await until(lambda: host.jobs == 0)


def test_a_range_of_replicas_is_scaled_by_jobs(paper_ray: PaperRay) -> None:
    join(paper_ray, devices="cpu", here=CPUS[:1], cluster_replicas="1..3", cluster_jobs=5)
    assert paper_ray.options["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 5,
        "policy": {"policy_function": "server.worker.ray.scaling:by_jobs"},
    }
    assert "num_replicas" not in paper_ray.options


def test_a_number_of_replicas_is_not_scaled(paper_ray: PaperRay) -> None:
    join(paper_ray, devices="cpu", here=CPUS[:1], cluster_replicas="4")
    assert paper_ray.options["num_replicas"] == 4
    assert "autoscaling_config" not in paper_ray.options


def test_gpus_may_come_later_where_it_is_said_how_many_replicas_there_are(paper_ray: PaperRay) -> None:
    join(paper_ray, HEAD, (), devices="cuda", cluster_replicas="1..3")
    assert paper_ray.options["ray_actor_options"] == {"num_cpus": 0, "num_gpus": 1}


@pytest.mark.parametrize(
    ("address", "settings", "said"),
    [
        (HEAD, {"devices": "cpu,cpu", "cluster_replicas": "1..3"}, "name cpu once"),
        ("local", {"devices": "cuda", "cluster_replicas": "1..3"}, r"this machine has 1 GPU\(s\)"),
    ],
)
def test_replicas_that_contradict_the_devices_are_refused(
    paper_ray: PaperRay, address: str, settings: dict[str, Any], said: str
) -> None:
    paper_ray.gpus = 1
    with pytest.raises(ConfigError, match=said) as refused:
        join(paper_ray, address, CPUS if settings["devices"] == "cpu,cpu" else (), **settings)
    assert "DARKROOM_CLUSTER_REPLICAS (--cluster-replicas) = 1..3" in str(refused.value)
    assert paper_ray.deployed == 0


def test_replicas_on_the_cpu_of_this_machine_share_its_cores(paper_ray: PaperRay, monkeypatch: Any) -> None:
    monkeypatch.setattr("server.worker.cores.read", lambda: Cores(8, 8))
    join(paper_ray, "local", CPUS[:1], devices="cpu", cluster_replicas="1..3")
    assert paper_ray.options["user_config"]["threads"] == 2


def test_a_declared_application_is_waited_for_and_not_deployed(
    paper_ray: PaperRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(seconds: float) -> None:
        paper_ray.state = State.DEPLOYING

    monkeypatch.setattr(paper_ray.cluster.time, "sleep", wait)
    join(paper_ray, cluster_replicas="declared")
    assert (paper_ray.state, paper_ray.deployed) == (State.DEPLOYING, 0)


def test_a_declared_application_that_fails_ends_the_start(paper_ray: PaperRay) -> None:
    paper_ray.state = State.DEPLOY_FAILED
    with pytest.raises(ConfigError, match="session_latest/logs/serve says why"):
        join(paper_ray, cluster_replicas="declared")


def test_a_serve_config_gives_the_device_and_no_more(paper_ray: PaperRay) -> None:
    paper_ray.application.build({"device": "cpu", "share": 2})
    assert paper_ray.options["ray_actor_options"] == {"num_cpus": 1}
    assert paper_ray.options["user_config"] == {}
    with pytest.raises(ValueError, match="replicas"):
        paper_ray.application.build({"replicas": 3})


def test_what_a_front_deploys_its_replicas_can_read(paper_ray: PaperRay) -> None:
    join(paper_ray, devices="cpu", here=CPUS[:1], threads=3, device_memory="50%")
    read = deployment.read_user_config(paper_ray.options["user_config"])
    assert (read.threads, read.device_memory) == (3, "50%")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"job_timeout_s": 5}, r"user_config\.job_timeout_s: no setting of a replica; it may have threads"),
        ({"threads": 0}, r"user_config\.threads: must be auto or a number from 1 to 1024"),
        ({"device_memory": "much"}, r"user_config\.device_memory: .*12GiB"),
    ],
)
def test_a_user_config_that_is_wrong_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        deployment.read_user_config(given)


def test_every_setting_of_replicas_is_a_setting() -> None:
    assert set(deployment.OF_REPLICAS) <= set(Settings.model_fields)
