"""AIGNE Hub's routes over a real socket: shapes, keys, errors, and answers that take long."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest

from server.errors import ANSWERS, Draining, ModelUnavailable, OutOfDeviceMemory, WorkerLost
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import opened
from tests.running import eventually

IMAGE = "/api/v2/image"
FLAT = "/api/v2/image/generations"
BODY = {"input": {"prompt": "x", "modelOptions": {"model": "openai/gpt-image-1"}}}


def test_discovery_needs_no_key_and_knows_the_path_of_a_proxy(paper_servers: PaperServers) -> None:
    for public_url, mount in ((None, "/"), ("https://example.org/darkroom", "/darkroom")):
        served = paper_servers.open(keys=True, public_url=public_url)
        with served.live.client() as stranger:
            (place,) = stranger.get("/__blocklet__.js?type=json").json()["componentMountPoints"]
        assert place == {"did": "z8ia3xzq2tMq8CRHfaXj1BTYJyYnEcHbqP8cJ", "mountPoint": mount}


def test_every_other_route_asks_for_a_key(paper_servers: PaperServers) -> None:
    served = paper_servers.open(keys=True)
    with served.live.client() as stranger:
        for path in ("/api/ai/models", "/api/ai-providers/models", "/api/v2/status", "/api/user/info"):
            assert_api_error(stranger.get(path), 401, "invalid_api_key")
        for path in (IMAGE, FLAT):
            assert_api_error(stranger.post(path, json=BODY), 401, "invalid_api_key")


def test_pictures_by_url_and_inline(paper: Paper) -> None:
    answer = paper.post({"input": {**BODY["input"], "n": 2, "outputFileType": "url"}}, IMAGE).json()
    assert (answer["model"], answer["modelWithProvider"]) == ("gpt-image-1", "openai/gpt-image-1")
    assert answer["usage"]["outputTokens"] > 0
    assert "creditPrefix" not in answer["usage"]
    assert len(answer["images"]) == 2
    for image in answer["images"]:
        assert (image["type"], image["mimeType"]) == ("url", "image/png")
        assert image["filename"].endswith(".png")
        assert opened(httpx.get(image["url"], trust_env=False, verify=False).content)
    (image,) = paper.post({"input": {**BODY["input"], "outputFileType": "file"}}, IMAGE).json()["images"]
    assert image["type"] == "file"
    assert opened(base64.b64decode(image["data"], validate=True))


def test_the_flat_answer_has_every_name_that_clients_read(paper: Paper) -> None:
    answer = paper.post({"prompt": "x", "responseFormat": "b64_json"}, FLAT).json()
    assert answer["images"] == answer["data"]
    (image,) = answer["images"]
    assert image["base64"] == image["b64_json"] == image["b64Json"]
    assert opened(base64.b64decode(image["base64"], validate=True))


def test_models_status_and_user(paper_servers: PaperServers) -> None:
    served = paper_servers.open(keys=True)
    with served.client() as client:
        rows = client.get("/api/ai/models", params={"type": "image"}).json()
        assert rows == client.get("/api/ai-providers/models").json()
        assert client.get("/api/ai/models", params={"type": "chat"}).json() == []
        for row in rows:
            assert row["input_credits_per_token"] == row["output_credits_per_token"] == "0"
            assert client.get("/api/v2/status", params={"model": row["key"]}).json() == {"available": True}
        unknown = client.get("/api/v2/status", params={"model": "no/such"}).json()
        assert (unknown["available"], unknown["code"]) == (False, "model_not_found")
        assert client.get("/api/user/info").json()["user"]["did"] == "tester"


@pytest.mark.parametrize("path", [IMAGE, FLAT])
def test_errors_are_those_of_every_route(paper: Paper, path: str) -> None:
    def body(**fields: object) -> dict[str, object]:
        return {"input": {"prompt": "x", **fields}} if path == IMAGE else {"prompt": "x", **fields}

    assert assert_api_error(paper.post(body(n=11), path), 400, "invalid_value")["param"] == "n"
    assert_api_error(paper.post(body(model="nope"), path), 404, "model_not_found")
    assert_api_error(paper.post(b"{", path), 400, "invalid_value")
    for failure in (ModelUnavailable("no folder"), OutOfDeviceMemory("full"), Draining("bye")):
        paper.worker.failure = failure
        assert_api_error(paper.post(body(), path), 503, ANSWERS[type(failure)].code)


def test_headers_go_out_while_a_picture_is_drawn(paper_servers: PaperServers) -> None:
    served = paper_servers.open(hub_headers_s=0.3)
    served.worker.gate.clear()
    with served.client() as client, client.stream("POST", IMAGE, json=BODY) as answer:
        assert served.worker.drawings  # still being drawn
        assert not served.worker.gate.is_set()
        assert answer.status_code == 200
        assert answer.headers["x-job-id"]
        served.worker.gate.set()
        answer.read()
    assert answer.content.startswith(b" ")
    assert answer.json()["images"]


def test_a_failure_after_the_headers_is_told_in_the_body(paper_servers: PaperServers) -> None:
    served = paper_servers.open(hub_headers_s=0.3)
    served.worker.gate.clear()
    served.worker.failure = WorkerLost("The worker ended.")
    with served.client() as client, client.stream("POST", IMAGE, json=BODY) as answer:
        served.worker.gate.set()  # the headers are out
        answer.read()
    body = answer.json()
    assert body["error"]["code"] == "worker_lost"
    assert body["error"]["message"].startswith("The worker ended.")
    assert "images" not in body


def test_a_client_that_leaves_after_the_headers_ends_its_job(paper_servers: PaperServers, tmp_path: Path) -> None:
    served = paper_servers.open(hub_headers_s=0.2)
    served.worker.gate.clear()
    with served.client() as client, client.stream("POST", IMAGE, json=BODY) as answer:
        assert answer.status_code == 200
    eventually(lambda: served.worker.cancelled, within_s=10)
    eventually(lambda: served.app.state.services.queue.held == 0, within_s=10)
