"""Several devices, as clients, admins and monitors see them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from server.errors import ConfigError
from server.worker.cost import Cost
from server.worker.protocol import Graphs
from server.worker.status import Loads, ModelState, ModelStatus
from tests.assertions import assert_api_error
from tests.http.test_admin import models_file
from tests.paper import Paper, PaperServers, PaperWorker
from tests.running import eventually


def workers(paper: Paper) -> list[PaperWorker]:
    return cast(list[PaperWorker], list(paper.app.state.services.worker.members))


@pytest.fixture
def two(paper_servers: PaperServers) -> Paper:
    return paper_servers.open(devices="cpu,cpu", running_jobs=1)


def ready(paper: Paper) -> Any:
    with paper.client() as client:
        return client.get("/readyz").json()


def test_readyz_tells_each_device_beside_what_it_told_before(two: Paper) -> None:
    first, second = workers(two)
    first.device_name = "Some CPU"
    second.device_problem = "The driver is too old."
    said = ready(two)
    before = {"ready", "worker", "device", "devices", "draining", "models", "models_file"}
    assert set(said) == before | {"usage", "upscalers"}
    assert (said["ready"], said["device"]) == (True, "cpu:0, cpu:1")
    assert said["worker"] == {"state": "up", "reason": "cpu:1: The driver is too old."}
    assert said["devices"] == [
        {
            "name": "cpu:0",
            "device_name": "Some CPU",
            "state": "up",
            "drawings": 0,
            "models": {"darkroom-mini": "ready"},
        },
        {
            "name": "cpu:1",
            "state": "up",
            "reason": "The driver is too old.",
            "drawings": 0,
            "models": {"darkroom-mini": "ready"},
        },
    ]


def test_two_devices_draw_twice_as_many_at_a_time(two: Paper) -> None:
    for worker in workers(two):
        worker.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(two.post, {"prompt": f"{number}"}) for number in range(3)]
        eventually(lambda: [len(worker.drawings) for worker in workers(two)] == [1, 1])
        assert [device["drawings"] for device in ready(two)["devices"]] == [1, 1]
        assert [device["draws"] for device in ready(two)["devices"]] == [{"darkroom-mini": 1}] * 2
        for worker in workers(two):
            worker.gate.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3


def test_admins_name_a_device_or_none(two: Paper) -> None:
    first, second = workers(two)
    with two.client() as client:
        answer = client.post("/v1/models/dall-e-3/unload", params={"device": "cpu:1"}).json()
        assert answer["state"] == "ready", "it still is, on the other"
        assert answer["devices"] == {"cpu:0": "ready", "cpu:1": "unloaded"}
        rows = client.get("/v1/models").json()["data"]
        assert {tuple(row["devices"].items()) for row in rows} == {(("cpu:0", "ready"), ("cpu:1", "unloaded"))}
        answer = client.post("/v1/models/dall-e-3/load").json()
        assert answer["devices"] == {"cpu:0": "ready", "cpu:1": "ready"}
        answer = client.post("/v1/admin/sleep", params={"device": "cpu:0"}).json()
        assert answer == {"worker": {"state": "up"}, "devices": {"cpu:0": "asleep", "cpu:1": "up"}}
        assert client.post("/v1/admin/sleep").json()["worker"] == {"state": "asleep"}
        assert client.post("/v1/admin/wake", params={"device": "cpu"}).json()["worker"] == {"state": "up"}
        for path in ("models/dall-e-3/load", "models/dall-e-3/unload", "admin/sleep", "admin/wake"):
            error = assert_api_error(client.post(f"/v1/{path}", params={"device": "cuda:7"}), 400, "invalid_value")
            assert error["param"] == "device"
            assert "cpu:0, cpu:1" in error["message"]
    assert not first.asleep
    assert not second.asleep


def test_a_model_is_bound_as_models_yaml_says(paper_servers: PaperServers, tmp_path: Path) -> None:
    file, text = models_file(tmp_path)
    weights = next(line for line in text.splitlines() if "path:" in line)
    indent = " " * (len(weights) - len(weights.lstrip()))
    file.write_text(text.replace(weights, f"{weights}\n{indent}devices: [cpu:1]"))
    bound = paper_servers.open(devices="cpu,cpu", models=file)
    for number in range(3):
        assert bound.post({"prompt": f"{number}"}).status_code == 200
    assert [len(worker.drawings) for worker in workers(bound)] == [0, 3]
    assert [device["models"] for device in ready(bound)["devices"]] == [{}, {"darkroom-mini": "ready"}]
    with bound.client() as client:
        error = assert_api_error(
            client.post("/v1/models/dall-e-3/load", params={"device": "cpu:0"}), 400, "invalid_value"
        )
        assert "binds dall-e-3 to cpu:1" in error["message"]
        file.write_text(file.read_text().replace("[cpu:1]", "[cpu:2]"))
        error = assert_api_error(client.post("/v1/admin/reload"), 400, "invalid_models_file")
        assert "cpu:0, cpu:1" in error["message"]
    assert bound.post({"prompt": "after"}).status_code == 200
    with pytest.raises(ConfigError, match="cpu:2"):
        paper_servers.open(devices="cpu,cpu", models=file)


def test_a_model_that_is_broken_everywhere_is_unavailable(two: Paper) -> None:
    for worker in workers(two):
        worker.models = {"darkroom-mini": ModelStatus(ModelState.BROKEN, "torn")}
    said = ready(two)
    assert (said["ready"], said["models"]["darkroom-mini"]) == (False, {"state": "broken", "reason": "torn"})


def test_what_a_step_costs_is_told_of_each_model_that_was_loaded(two: Paper) -> None:
    """What bounded a model's rows could be read in no other place than the log line of its load."""
    assert "step" not in ready(two)["models"]["darkroom-mini"]
    cost = Cost(0.01234567, 0.0012, 4096, 48, steps=900, guess=True)
    for worker in workers(two):
        worker.models = {"darkroom-mini": ModelStatus(ModelState.READY, loads=Loads(cost=cost))}
    assert ready(two)["models"]["darkroom-mini"]["step"] == {
        "fixed_ms": 12.346,
        "row_ms": 1.2,
        "pixels": 4096,
        "most_rows": 48,
        "steps": 900,
        "guess": True,
    }


def test_what_became_of_cuda_graphs_is_told_of_each_model_that_has_some(two: Paper) -> None:
    assert "graphs" not in ready(two)["models"]["darkroom-mini"]
    said = Graphs("darkroom-mini", 2, 3, 40, {"memory was short": 1}, {"it failed": 2}, 3 << 19)
    told = {
        "held": 2,
        "captured": 3,
        "replayed": 40,
        "dropped": {"memory was short": 1},
        "refused": {"it failed": 2},
        "pool_mib": 1.5,
    }
    for reason in ("", "offload: its weights come and go"):
        status = ModelStatus(ModelState.READY, loads=Loads(graphs=msgspec.structs.replace(said, reason=reason)))
        for worker in workers(two):
            worker.models = {"darkroom-mini": status}
        assert ready(two)["models"]["darkroom-mini"]["graphs"] == ({**told, "reason": reason} if reason else told)
    for worker in workers(two):
        worker.models["darkroom-mini"].state = ModelState.UNLOADED
    assert "graphs" not in ready(two)["models"]["darkroom-mini"]
