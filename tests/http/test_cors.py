"""Pages of other origins over a real socket: what the answers tell a browser, refusals and preflights included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.edge.keys import Keyring
from server.errors import ConfigError
from server.settings import Settings
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.running import ROOT
from tests.unit.edge.live import parse, read_all, serve, settings_for
from tests.unit.edge.rooms import make_app

APP = "https://app.example.com"
STRANGER = "https://evil.example"
ALLOW, EXPOSE = "access-control-allow-origin", "access-control-expose-headers"
DRAW = {"prompt": "a red apple", "size": "512x512"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperServers]:
    with PaperServers(tmp_path_factory.mktemp("paper")) as opened:
        yield opened


@pytest.fixture(scope="module")
def keyed(servers: PaperServers) -> Paper:
    return servers.open(
        keys=True, cors_origins=f"{APP}, http://localhost:5173", key_jobs=1, max_body_bytes=4096, header_timeout_s=0.5
    )


@pytest.fixture(scope="module")
def keyless(servers: PaperServers) -> Paper:
    return servers.open(cors_origins=APP)


def preflight(client: httpx.Client, path: str, origin: str, **headers: str) -> httpx.Response:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    return client.options(path, headers={"origin": origin, **asked, **headers})


def assert_readable(answer: httpx.Response, origin: str = APP) -> None:
    """A page of this origin can read the answer, and no cache gives it to another's."""
    assert answer.headers.get_list(ALLOW) == [origin]
    assert "Origin" in answer.headers["vary"]
    assert "x-request-id" in answer.headers[EXPOSE]
    assert "access-control-allow-credentials" not in answer.headers


def assert_unreadable(answer: httpx.Response) -> None:
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/models", "/files/x", "/nothing/here"])
def test_a_preflight_is_answered_without_a_key(keyed: Paper, path: str) -> None:
    """One of an unknown path too: the request that follows has an answer that says so, which can be read then."""
    with httpx.Client(base_url=keyed.url, trust_env=False) as client:
        answer = preflight(client, path, APP)
    assert (answer.status_code, answer.headers.get_list(ALLOW)) == (204, [APP])
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "Origin" in answer.headers["vary"]


def test_a_preflight_of_a_private_network_is_answered_where_it_is_asked(keyed: Paper) -> None:
    with keyed.client() as client:
        asked = {"access-control-request-private-network": "true"}
        assert preflight(client, "/v1/models", APP, **asked).headers["access-control-allow-private-network"] == "true"
        assert "access-control-allow-private-network" not in preflight(client, "/v1/models", APP).headers
        assert_unreadable(preflight(client, "/v1/models", STRANGER, **asked))


@pytest.mark.parametrize("asked", ["x y", "a,,b", "a\tb", "ä", "x" * 5000])
def test_odd_names_of_headers_are_not_repeated(keyed: Paper, asked: str) -> None:
    with keyed.client() as client:
        answer = preflight(client, "/v1/models", APP, **{"access-control-request-headers": asked.encode()})  # type: ignore[arg-type]
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"


def test_a_page_that_is_listed_reads_pictures_and_our_own_headers(keyed: Paper) -> None:
    with keyed.client() as client:
        answer = client.post("/v1/images/generations", json={**DRAW, "wobble": 1}, headers={"origin": APP})
        assert_readable(answer)
        assert {"x-request-id", "x-job-id", "x-ignored-fields"} <= set(answer.headers[EXPOSE].split(", "))
        path = httpx.URL(answer.json()["data"][0]["url"]).raw_path.decode()
        picture = client.get(path, headers={"origin": "http://localhost:5173", "range": "bytes=0-3"})
        assert (picture.status_code, picture.content) == (206, b"\x89PNG")
        assert_readable(picture, "*")  # once, and as it was before: its URL is the permission
        assert {"etag", "content-range", "accept-ranges"} <= set(picture.headers[EXPOSE].split(", "))


def test_a_stream_can_be_read(keyed: Paper) -> None:
    with keyed.client() as client:
        answer = client.post("/v1/images/generations", json={**DRAW, "stream": True}, headers={"origin": APP})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert_readable(answer)


def test_refusals_can_be_read(keyed: Paper) -> None:
    """Without these headers a page's program sees "Failed to fetch", whatever was wrong."""
    origin = {"origin": APP}
    with keyed.client() as client:
        answers = {
            (401, "invalid_api_key"): httpx.get(f"{keyed.url}/v1/models", headers=origin, trust_env=False),
            (413, "too_large"): client.post("/v1/images/generations", content=b" " * 5000, headers=origin),
            (404, "not_found"): client.get("/nothing/here", headers=origin),
            (405, "method_not_allowed"): client.delete("/v1/models", headers=origin),
            (400, "missing_field"): client.post("/v1/images/generations", json={}, headers=origin),
        }
        for (status, code), answer in answers.items():
            assert_api_error(answer, status, code)
            assert_readable(answer)
            assert {"x-should-retry", "x-request-id"} <= set(answer.headers[EXPOSE].split(", "))


def test_a_full_queue_says_when_to_come_back(keyed: Paper) -> None:
    keyed.worker.gate.clear()
    try:
        with keyed.client() as client, keyed.client() as other:
            request = client.build_request("POST", "/v1/images/generations", json={**DRAW, "stream": True})
            begun = client.send(request, stream=True)
            answer = other.post("/v1/images/generations", json=DRAW, headers={"origin": APP})
            assert_api_error(answer, 429, "key_limit")
            assert_readable(answer)
            assert "retry-after" in answer.headers[EXPOSE]
            begun.close()
    finally:
        keyed.worker.gate.set()


def test_what_no_application_answers_can_be_read_once_the_origin_has_come(keyed: Paper) -> None:
    """431, 408 and malformed requests are answered before there is a request."""
    for tail, status in ((b"X: " + b"x" * 70_000, 431), (b"X-Half: ", 408), (b"Content-Length: x\r\n\r\n", 400)):
        with keyed.live.connect() as connection:
            connection.sendall(f"GET /livez HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\nA: b\r\n".encode() + tail)
            answer = parse(read_all(connection))
        assert answer.status_code == status
        assert_readable(answer)
        assert "x-should-retry" in answer.headers[EXPOSE]


@pytest.mark.parametrize(
    "origin", [STRANGER, "null", "", "http://app.example.com", f"{APP}:444", f"{APP}.evil.example", f"{APP}/", "*"]
)
def test_a_page_that_is_not_listed_reads_nothing(keyed: Paper, origin: str) -> None:
    with keyed.client() as client:
        for answer in (
            client.get("/v1/models", headers={"origin": origin}),
            preflight(client, "/v1/models", origin),
            preflight(client, "/nothing", origin),
            client.get("/nothing", headers=[("origin", APP), ("origin", origin)]),
        ):
            assert_unreadable(answer)
            assert "Origin" in answer.headers["vary"]


def test_a_program_without_an_origin_is_told_nothing(keyed: Paper) -> None:
    with keyed.client() as client:
        answer = client.get("/v1/models")
    assert_unreadable(answer)
    assert "Origin" in answer.headers["vary"]


def test_any_origin_where_there_are_keys(servers: PaperServers) -> None:
    paper = servers.open(keys=True, cors_origins="*")
    with paper.client() as client:
        answer = client.get("/v1/models", headers={"origin": "null"})
        assert answer.headers[ALLOW] == "*"
        assert "vary" not in answer.headers
        assert "x-request-id" in answer.headers[EXPOSE]
        assert preflight(client, "/v1/models", STRANGER).headers[ALLOW] == "*"
    refused = httpx.get(f"{paper.url}/v1/models", headers={"origin": STRANGER}, trust_env=False)
    assert_api_error(refused, 401, "invalid_api_key")
    assert refused.headers[ALLOW] == "*"


def test_off_by_default(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    with paper.client() as client:
        answer = client.get("/v1/models", headers={"origin": APP})
        assert_unreadable(answer)
        assert "vary" not in answer.headers
        assert_unreadable(preflight(client, "/v1/models", APP))
        plain = client.options("/v1/images/generations")
        assert (plain.status_code, plain.headers["allow"]) == (204, "POST, OPTIONS")


# Without keys


def test_without_keys_a_page_that_is_not_listed_still_draws_nothing(keyless: Paper) -> None:
    """It can send a plain POST without a preflight; a picture would be drawn though it cannot read it."""
    with keyless.client() as client:
        answer = client.post("/v1/images/generations", json=DRAW, headers={"origin": STRANGER})
        assert "cors_origins" in assert_api_error(answer, 400, "origin_refused")["message"]
        assert_unreadable(answer)
        assert_unreadable(client.get("/v1/models", headers={"origin": STRANGER}))


def test_without_keys_a_page_that_is_listed_draws_but_does_not_own(keyless: Paper) -> None:
    with keyless.client() as client:
        answer = client.post("/v1/images/generations", json=DRAW, headers={"origin": APP})
        assert answer.status_code == 200
        assert_readable(answer)
        unload = client.post("/v1/models/darkroom-mini/unload", headers={"origin": APP})
        assert_api_error(unload, 403, "admin_required")
        assert_readable(unload)


def test_without_keys_a_rebound_name_is_refused_whatever_is_listed(keyless: Paper) -> None:
    with keyless.client() as client:
        for method in ("POST", "GET", "OPTIONS"):
            answer = client.request(method, "/v1/models", headers={"host": "app.example.com", "origin": APP})
            assert_api_error(answer, 400, "host_refused")


@pytest.mark.parametrize(("host", "allow_open"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_any_origin_is_refused_where_no_key_is_asked_for(tmp_path: Path, host: str, allow_open: bool) -> None:
    settings = Settings(
        data_dir=tmp_path, models=ROOT / "models.yaml", cors_origins="*", host=host, allow_open=allow_open
    )
    with pytest.raises(ConfigError, match=r"DARKROOM_CORS_ORIGINS.*every web page.*darkroom keys create"):
        create_app(settings)
    ring = Keyring(tmp_path / "keys.json")
    ring.create("ada")
    create_app(settings)
    ring.revoke("ada")  # closed to everybody now, but where allow_open lets everybody in after a restart
    if allow_open:
        with pytest.raises(ConfigError):
            create_app(settings)
    else:
        create_app(settings)


def test_beyond_the_connections_a_preflight_is_answered_as_a_key_may_follow(tmp_path: Path) -> None:
    settings: Any = settings_for(tmp_path, cors_origins=APP, max_connections=16)
    with serve(make_app(settings, Keyring.in_memory({"ada": "dk_ada"})), settings) as live:
        busy = [live.connect() for _ in range(16)]
        for connection in busy:  # whole requests that are being answered: none of these gives way
            connection.sendall(
                b"POST /work HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer dk_ada\r\nContent-Type: application/json\r\n"
                b'Content-Length: 14\r\n\r\n{"prompt":"a"}'
            )
        with live.client() as client:
            refused = client.get("/v1/models/x", headers={"origin": APP})
            assert refused.status_code in (401, 503)
            assert_readable(refused)
            assert preflight(client, "/v1/models/x", APP).status_code == 204
            assert client.options("/v1/models/x", headers={"origin": STRANGER}).status_code == 503
            answer = client.get("/v1/models/x", headers={"origin": APP, "authorization": "Bearer dk_ada"})
            assert answer.status_code == 200
        for connection in busy:
            connection.close()
