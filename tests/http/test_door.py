"""The door of the server, from outside: keys, streams, disconnects and errors over a real socket.

And what real programs send to it: careless paths, other headers, other encodings.
"""

from __future__ import annotations

import gzip
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import png, scene
from tests.unit.edge.live import Live, serve, settings_for
from tests.unit.edge.rooms import make_app

OPEN = {"/livez", "/readyz", "/__blocklet__.js", "/", "/files/x", "/page/x"}


def paths_of(app: FastAPI) -> set[str]:
    """Every path that the app routes, with x for each parameter."""
    found = set()
    for context in iter_route_contexts(app.routes):
        template = context.path_format or context.path
        if template is None:  # a mounted folder
            continue
        found.add("/".join("x" if part.startswith("{") else part for part in template.split("/")))
    return found


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[Live, FastAPI, str]]:
    settings = settings_for(tmp_path)
    ring = Keyring(tmp_path / "keys.json")
    key = ring.create("alice")
    app = make_app(settings, ring)
    with serve(app, settings) as live:
        yield live, app, key


def test_every_route_but_the_open_ones_asks_for_a_key(keyed: tuple[Live, FastAPI, str]) -> None:
    live, app, _ = keyed
    paths = paths_of(app)
    assert {"/pictures", "/v1/models/x", "/docs", "/openapi.json", "/livez"} <= paths
    with live.client() as client:
        for path in sorted(paths):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
                answer = client.request(method, path)
                if path in OPEN and method in ("GET", "HEAD"):
                    assert answer.status_code == 200, path
                else:
                    assert answer.status_code == 401, (method, path)
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert answer.headers["x-request-id"]
                    if method != "HEAD":
                        assert_api_error(answer, 401, "invalid_api_key")


def test_a_key_revoked_while_it_runs_stops_working(keyed: tuple[Live, FastAPI, str], tmp_path: Path) -> None:
    live, _, key = keyed
    with live.client(headers={"authorization": f"Bearer {key}"}) as client:
        assert client.get("/v1/models/x").status_code == 200
        Keyring(tmp_path / "keys.json").revoke("alice")
        deadline = time.monotonic() + 3
        while client.get("/v1/models/x").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert_api_error(client.get("/v1/models/x"), 401, "invalid_api_key")


def test_a_stream_is_not_buffered(keyed: tuple[Live, FastAPI, str]) -> None:
    live, _, key = keyed
    with (
        live.client(headers={"authorization": f"Bearer {key}"}) as client,
        client.stream("GET", "/stream") as answer,
    ):
        assert answer.headers["x-request-id"]
        times = []
        for part in answer.iter_text():
            assert part.startswith("data: ")
            times.append(time.monotonic())
    assert len(times) == 3
    assert times[1] - times[0] > 0.05


def test_work_ends_when_its_client_closes(keyed: tuple[Live, FastAPI, str]) -> None:
    live, app, key = keyed
    body = b'{"prompt": "a cat"}'
    head = f"POST /work HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    with live.connect() as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        deadline = time.monotonic() + 3
        while app.state.witness.entered == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
    while not app.state.witness.cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert app.state.witness.cancelled


def test_the_openai_sdk_reads_the_errors(keyed: tuple[Live, FastAPI, str]) -> None:
    live, _, key = keyed
    with openai.OpenAI(base_url=live.url, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.get("/v1/models/x", cast_to=object)
        assert refused.value.code == "invalid_api_key"
        assert refused.value.request_id is not None
    with openai.OpenAI(base_url=live.url, api_key=key) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.images.generate(prompt="a cat")
        assert missing.value.code == "not_found"


BODY = {"prompt": "a cat", "size": "256x256"}
RAW = json.dumps(BODY).encode()
GENERATIONS = ["/v1/images/generations", "/api/images/generations", "/api/v2/image/generations", "/api/v2/image"]
MARK = b"\xef\xbb\xbf"


def raw_of(path: str) -> bytes:
    return json.dumps({"input": BODY}).encode() if path == "/api/v2/image" else RAW


@pytest.mark.parametrize(
    "path",
    [
        "/images/generations",
        "/images/generations/",
        "/v1/images/generations/",
        "/v1//images/generations",
        "/api//images//generations//",
        "/api/v2/image/generations/",
    ],
)
def test_a_careless_path_is_the_one_that_is_meant(paper: Paper, path: str) -> None:
    """Each was 404: a base URL that ends in a slash, or without /v1. A redirect would lose the body."""
    answer = paper.post(BODY, path)
    assert answer.status_code == 200, answer.text
    assert len(paper.worker.drawings) == 1


def test_careless_paths_of_gets(paper: Paper) -> None:
    """/v1/models/ said "No such model"."""
    with paper.client() as client:
        listed = client.get("/v1/models").json()
        for path in ("/v1/models/", "/models", "/models/", "/v1//models", "/api/models/"):
            assert client.get(path).json() == listed, path
        assert client.get("/models/dall-e-3/").json()["id"] == "dall-e-3"
        assert client.get("/api/v2/status/").json() == {"available": True}
        assert client.get("/api/ai/models/").status_code == 200
        assert client.get("/images/jobs/").status_code == 200
        assert client.get("/docs/").text.count('src="../page/docs/') == 2
        assert client.get("/docs").text.count('src="./page/docs/') == 2


def test_a_picture_has_one_address(paper: Paper) -> None:
    url = paper.post({**BODY, "response_format": "url"}).json()["data"][0]["url"]
    path = url.partition(paper.url)[2]
    with paper.client() as client:
        assert client.get(path).status_code == 200
        for other in (
            path.replace("/files/", "/files//"),
            path.replace("?", "/?"),
            path.replace(".png", "%2e%2e.png"),
        ):
            assert client.get(other).status_code in (403, 404), other


def test_options_and_head_on_every_route(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    paths = sorted(paths_of(paper.app))
    assert "/api/v2/image" in paths
    with paper.live.client() as stranger, paper.client() as client:
        for path in paths:
            answer = stranger.options(path, headers={"origin": "http://tool.example"})
            assert (answer.status_code, answer.content) == (204, b""), path
            allowed = answer.headers["allow"].split(", ")
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
                asked = client.request(method, path)
                assert (asked.status_code != 405) == (method in allowed), (method, path)
                assert asked.status_code < 500, (method, path)
                if asked.status_code == 405:
                    assert asked.headers["allow"] == answer.headers["allow"], path
            if "GET" in allowed:
                assert stranger.head(path).status_code == stranger.get(path).status_code, path
        assert client.options("/v1/images/jobs/x").headers["allow"] == "GET, HEAD, DELETE, OPTIONS"


def test_azures_clients_get_in(paper_servers: PaperServers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    paper = paper_servers.open(keys=True)
    assert paper.key is not None
    with paper.live.client() as client:
        for name in ("api-key", "x-api-key", "API-Key"):
            assert client.post(GENERATIONS[0], json=BODY, headers={name: paper.key}).status_code == 200
            assert_api_error(client.get("/v1/models", headers={name: "wrong4711"}), 401, "invalid_api_key")
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not any(secret in repr(vars(record)) for record in ours for secret in (paper.key, "wrong4711"))


def test_azures_own_client_draws_and_edits(paper_servers: PaperServers) -> None:
    """Its paths were 404: the model stands in them, behind /openai/deployments."""
    paper = paper_servers.open(keys=True)
    azure = openai.AzureOpenAI(
        azure_endpoint=paper.url, api_key=paper.key or "", api_version="2025-04-01-preview", max_retries=0
    )
    with azure as client:
        for model in ("dall-e-3", "openai/dall-e-3"):
            drawn = client.images.generate(prompt="x", model=model)
            assert drawn.data
            assert paper.worker.drawings[-1].spec.model == "dall-e-3"
        client.images.edit(image=png(scene(40, 40)), prompt="x", model="gpt-image-1")
        assert (paper.worker.drawings[-1].spec.model, paper.worker.drawings[-1].spec.height) == ("gpt-image-1", 40)
        assert "dall-e-3" in [model.id for model in client.models.list()]


def test_a_deployment_in_the_path_is_the_model(paper: Paper) -> None:
    at = "/openai/deployments/dall-e-3/images/generations?api-version=2024-02-01"
    for body in ({"prompt": "x"}, {"prompt": "x", "model": ""}, {"prompt": "x", "model": "openai/dall-e-3"}):
        answer = paper.post(body, at)
        assert (answer.status_code, answer.json()["model"]) == (200, "dall-e-3")
    error = assert_api_error(paper.post({"prompt": "x", "model_id": "dall-e-2"}, at), 400, "invalid_value")
    assert error["param"] == "model_id"
    for name in ("nothing-here", "openai/" * 20 + "nothing"):
        path = f"/openai/deployments/{name}/images/generations"
        assert_api_error(paper.post({"prompt": "x"}, path), 404, "model_not_found")
    for path in ("/openai/deployments/dall-e-3", f"/openai/deployments/{'openai/' * 100}dall-e-3/images/generations"):
        assert_api_error(paper.post({"prompt": "x"}, path), 404, "not_found")
    with paper.client() as client:
        assert client.options(at).headers["allow"] == "POST, OPTIONS"
        assert_api_error(client.get(f"/v1/models/{'openai/' * 2000}dall-e-3"), 404, "model_not_found")


@pytest.mark.parametrize("path", GENERATIONS)
def test_packed_and_marked_bodies_are_read(paper: Paper, path: str) -> None:
    """Both were answered "The body is not valid JSON"."""
    raw = raw_of(path)
    for content, headers in (
        (MARK + raw, {}),
        (gzip.compress(raw), {"content-encoding": "gzip"}),
        (gzip.compress(MARK + raw), {"content-encoding": "gzip"}),
        (raw, {"content-type": "application/x-www-form-urlencoded"}),  # what curl -d says of everything
        (raw, {"content-type": "multipart/form-data; boundary=x"}),
    ):
        answer = paper.post(content, path, headers=headers)
        assert answer.status_code == 200, (headers, answer.text)


@pytest.mark.parametrize("path", GENERATIONS)
@pytest.mark.parametrize(
    ("content", "kind", "named"),
    [
        (b"", "application/json", "empty"),
        (b"prompt=a+cat&n=1", "application/x-www-form-urlencoded", "x-www-form-urlencoded"),
        (b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\ncat\r\n--x--', None, "multipart/form-data"),
        (b"--x\r\n\r\n--x--", "Multipart/Form-Data; boundary=x", "multipart/form-data"),
        (RAW.decode().encode("utf-16"), "application/json; charset=utf-16", "UTF-16"),
        (RAW.decode().encode("utf-16-le"), "application/json", "UTF-16"),
        (gzip.compress(RAW), "application/json", "Content-Encoding: gzip"),
        (b"canary", "text/plain", "not valid JSON"),
    ],
    ids=range(8),
)
def test_what_is_not_json_is_named(paper: Paper, path: str, content: bytes, kind: str | None, named: str) -> None:
    """Whatever it was, the answer said "The body is not valid JSON"."""
    answer = paper.post(content, path, headers={} if kind is None else {"content-type": kind})
    error = assert_api_error(answer, 400, "invalid_value")
    assert named in error["message"]
    assert "canary" not in answer.text


def test_json_where_only_a_form_can_be_read_is_named(paper: Paper) -> None:
    error = assert_api_error(paper.post(BODY, "/v1/images/variations"), 400, "invalid_value")
    assert "multipart/form-data" in error["message"]
    assert "JSON" in error["message"]
    form = {"content-type": "application/x-www-form-urlencoded"}
    error = assert_api_error(paper.post(b"image=x", "/v1/images/variations", headers=form), 400, "invalid_value")
    assert "carries no files" in error["message"]


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_leaving_in_mid_body_is_no_fault(paper: Paper, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """It was logged as an error, with a traceback."""
    caplog.set_level(logging.INFO)
    head = f"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 99\r\n\r\n--x"
    with paper.live.connect() as connection:
        connection.sendall(head.encode())
        time.sleep(0.2)
    deadline = time.monotonic() + 5
    while not (told := [each for each in caplog.records if each.name == "darkroom.access"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert told[0].status == 499  # type: ignore[attr-defined]
    assert all(record.levelno <= logging.INFO for record in caplog.records), caplog.text
    assert any(record.getMessage() == "client left" for record in caplog.records)
