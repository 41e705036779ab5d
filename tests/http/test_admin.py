"""Administration: who may load and unload models, put the worker to sleep and have models.yaml read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from server.edge.keys import Keyring
from server.worker.status import ModelState
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.running import ROOT, eventually

ROUTES = [
    "/v1/models/darkroom-mini/load",
    "/v1/models/darkroom-mini/unload",
    "/v1/admin/sleep",
    "/v1/admin/wake",
    "/v1/admin/reload",
]


@pytest.mark.parametrize("path", ROUTES)
def test_another_key_than_an_admins_is_refused(paper_servers: PaperServers, path: str) -> None:
    keyed = paper_servers.open(keys=True)
    with keyed.client() as client:
        assert_api_error(client.post(path), 403, "admin_required")
    admin = Keyring(keyed.app.state.services.settings.data_dir / "keys.json").create("owner", admin=True)
    headers = {"authorization": f"Bearer {admin}", "origin": "http://elsewhere.example"}
    with keyed.client(headers=headers) as client:
        eventually(lambda: client.post(path).status_code in (200, 202), within_s=10)


@pytest.mark.parametrize("path", ROUTES)
def test_a_server_without_keys_is_its_owners(paper_servers: PaperServers, path: str) -> None:
    own = paper_servers.open()
    with own.client() as client:
        assert client.post(path).is_success
        assert client.post(path, headers={"origin": own.url}).is_success
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            assert_api_error(client.post(path, headers={"origin": origin}), 400, "origin_refused")


@pytest.mark.parametrize("path", ROUTES)
def test_a_server_that_is_open_to_anyone_is_nobodys(paper_servers: PaperServers, path: str) -> None:
    with paper_servers.open(allow_open=True).client() as client:
        assert_api_error(client.post(path), 403, "admin_required")


def test_a_keys_file_of_before_has_ordinary_keys(paper_servers: PaperServers) -> None:
    keyed = paper_servers.open(keys=True)
    path: Path = keyed.app.state.services.settings.data_dir / "keys.json"
    assert set(json.loads(path.read_text())["keys"][0]) == {"name", "sha256", "created"}


def test_a_model_is_loaded_and_unloaded_by_any_of_its_names(paper_servers: PaperServers) -> None:
    own = paper_servers.open()
    with own.client() as client:
        answer = client.post("/v1/models/dall-e-3/unload")
        assert (answer.status_code, answer.json()["id"]) == (202, "dall-e-3")
        assert states(own) == [ModelState.UNLOADED]
        answer = client.post("/v1/models/openai/dall-e-3/load")
        assert (answer.status_code, answer.json()["state"]) == (200, "ready")
        assert states(own) == [ModelState.READY]
        for action in ("load", "unload"):
            assert_api_error(client.post(f"/v1/models/nope/{action}"), 404, "model_not_found")


def test_a_worker_that_sleeps_counts_as_up(paper_servers: PaperServers) -> None:
    own = paper_servers.open()
    with own.client() as client:
        assert client.post("/v1/admin/sleep").json() == {"worker": {"state": "asleep"}}
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["worker"]) == (200, {"state": "asleep"})
        assert client.post("/v1/admin/wake").json() == {"worker": {"state": "up"}}


def states(paper: Paper) -> list[ModelState]:
    return [status.state for status in paper.worker.models.values()]


def models_file(tmp_path: Path) -> tuple[Path, str]:
    file = tmp_path / "models.yaml"
    text = (ROOT / "models.yaml").read_text().replace(": weights/", f": {ROOT}/weights/")
    file.write_text(text)
    return file, text


def test_models_yaml_is_read_again_when_asked_for(paper_servers: PaperServers, tmp_path: Path) -> None:
    file, text = models_file(tmp_path)
    own = paper_servers.open(models=file)
    file.write_text(text + "  fresh: { like: darkroom-mini, aliases: [freshly] }\n")
    with own.client() as client:
        assert client.post("/v1/admin/reload").json() == {"added": ["fresh"], "changed": [], "removed": []}
        assert client.get("/v1/models/freshly").json()["id"] == "freshly"
        assert own.post({"prompt": "x", "model": "fresh"}).status_code == 200
        file.write_text(text + "  fresh: 3\n")
        error = assert_api_error(client.post("/v1/admin/reload"), 400, "invalid_models_file")
        assert "fresh" in error["message"]
        assert str(tmp_path) not in error["message"]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["models_file"]["state"]) == (200, "wrong")
        assert "fresh" in ready.json()["models_file"]["reason"]
        file.write_text(text)
        eventually(lambda: client.get("/v1/models/fresh").status_code == 404)
        assert_api_error(own.post({"prompt": "x", "model": "fresh"}), 404, "model_not_found")


def test_a_hubs_request_ends_whose_model_left_while_it_was_drawn(paper_servers: PaperServers, tmp_path: Path) -> None:
    """Its answer names the model's owner, who was looked up after the drawing: it was 404."""
    file, text = models_file(tmp_path)
    file.write_text(text + "  fresh: { like: darkroom-mini, owned_by: somebody }\n")
    own = paper_servers.open(models=file)
    own.worker.gate.clear()
    late = _in_background(own, {"input": {"prompt": "x", "modelOptions": {"model": "fresh"}}})
    eventually(lambda: own.worker.drawings)
    file.write_text(text)
    with own.client() as client:
        assert client.post("/v1/admin/reload").json()["removed"] == ["fresh"]
    own.worker.gate.set()
    assert late().json()["modelWithProvider"] == "somebody/fresh"


def _in_background(paper: Paper, body: object) -> Callable[[], httpx.Response]:
    pool = ThreadPoolExecutor(1)
    return pool.submit(paper.post, body, "/api/v2/image").result
