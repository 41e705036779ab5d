from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.running import eventually
from tests.unit.edge.live import Live, parse, read_all, serve, settings_for
from tests.unit.edge.rooms import make_app


def app_for(tmp_path: Path, keyring: Keyring) -> FastAPI:
    app = make_app(settings_for(tmp_path), keyring)

    @app.get("/thing/{name}")
    async def show(name: str) -> dict[str, str]:
        return {"name": name}

    @app.delete("/thing/{name}")
    async def drop(name: str) -> None: ...

    return app


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("keyed")
    with serve(app_for(folder, Keyring.in_memory({"alice": "dk_alice"})), settings_for(folder)) as live:
        yield live


def test_options_are_told_to_whoever_asks(keyed: Live) -> None:
    """A preflight was 405, and with keys 401."""
    with keyed.client() as client:
        for path, methods in (
            ("/pictures", "POST, OPTIONS"),
            ("/pictures//", "POST, OPTIONS"),
            ("/livez", "GET, HEAD, OPTIONS"),
            ("/thing/x", "GET, HEAD, DELETE, OPTIONS"),
        ):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"origin": "http://tool.example"}):
                answer = client.options(path, headers=headers)
                assert (answer.status_code, answer.headers["allow"], answer.content) == (204, methods, b""), path
                assert "access-control-allow-origin" not in answer.headers
        assert_api_error(client.options("/nowhere"), 404, "not_found")


def test_options_of_the_server_itself(keyed: Live) -> None:
    with keyed.connect() as connection:
        connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = parse(read_all(connection))
    assert answer.status_code == 204
    assert "POST" in answer.headers["allow"]


def test_a_method_that_a_path_does_not_take_is_told_all_that_it_takes(keyed: Live) -> None:
    """Allow named the methods of the first route of the path only."""
    with keyed.client(headers={"authorization": "Bearer dk_alice"}) as client:
        answer = client.put("/thing/x")
        assert_api_error(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD, DELETE, OPTIONS"
        assert client.head("/pictures").status_code == 405
        assert client.head("/pictures").headers["allow"] == "POST, OPTIONS"


def test_head_is_get_without_its_body(keyed: Live) -> None:
    """Routes that answered GET refused HEAD, which every program may send where it may send GET (RFC 9110, 9.3.2)."""
    with keyed.client(headers={"authorization": "Bearer dk_alice"}) as client:
        for path in ("/thing/x", "/livez", "/files/abc", "/v1/models/x", "/stream"):
            head, get = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (200, b""), path
            assert head.headers.get("content-length") == get.headers.get("content-length"), path
        assert client.head("/nowhere").status_code == 404
        assert client.get("/livez").json() == {"ok": True}  # on the same connection: nothing was left in it
    with keyed.client() as client:
        assert client.head("/thing/x").status_code == 401


def test_the_log_knows_the_route_of_a_head(keyed: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "darkroom.access")
    with keyed.client(headers={"authorization": "Bearer dk_alice"}) as client:
        client.head("/thing/x")
    # It is written after the client has its answer.
    (record,) = eventually(lambda: [record for record in caplog.records if record.name == "darkroom.access"])
    assert (record.route, record.method) == ("/thing/{name}", "HEAD")  # type: ignore[attr-defined]
