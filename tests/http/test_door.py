"""The door of the server, from outside: keys, streams, disconnects and errors over a real socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from server.edge.keys import Keyring
from tests.assertions import assert_api_error
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
