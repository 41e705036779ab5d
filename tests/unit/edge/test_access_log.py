from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from server.edge.access_log import AccessLog, route_template
from server.edge.disconnect import ClientLeft
from server.edge.keys import Keyring
from server.edge.stack import install
from tests.unit.edge.asgi import exchange, http_scope
from tests.unit.edge.live import serve, settings_for
from tests.unit.edge.rooms import make_app


def records_of(caplog: pytest.LogCaptureFixture, count: int) -> list[logging.LogRecord]:
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        found = [record for record in caplog.records if record.name == "darkroom.access"]
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"fewer than {count} records")


def test_one_record_per_request_with_templates_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "darkroom.access")
    settings = settings_for(tmp_path)
    key = {"authorization": "Bearer dk_canary"}
    app = make_app(settings, Keyring.in_memory({"alice": "dk_canary"}))
    with serve(app, settings) as live, live.client() as client:
        client.get("/v1/models/canary?canary=canary", headers=key)
        client.get("/files/canary")
        client.get("/canary", headers={**key, "x-canary": "canary"})
        client.get("/page/canary")
        client.get("/v1/models/canary")
        client.delete("/v1/models/canary", headers=key)
        client.post("/pictures", json={"prompt": "canary"}, headers=key)
        records = records_of(caplog, 7)
    seen = [(r.method, r.route, r.status, r.principal) for r in records]  # type: ignore[attr-defined]
    assert seen == [
        ("GET", "/v1/models/{model}", 200, "alice"),
        ("GET", "/files/{path}", 200, None),
        ("GET", "other", 404, "alice"),
        ("GET", "/page/*", 200, None),
        ("GET", "other", 401, None),
        ("DELETE", "/v1/models/{model}", 405, "alice"),
        ("POST", "/pictures", 200, "alice"),
    ]
    for record in records:
        assert "canary" not in repr(vars(record))
        assert record.seconds >= 0  # type: ignore[attr-defined]
        assert record.bytes > 0  # type: ignore[attr-defined]
        assert record.request_id.startswith("req_")  # type: ignore[attr-defined]


@pytest.mark.anyio
@pytest.mark.parametrize("raises", [False, True])
async def test_a_client_that_left_is_a_499(caplog: pytest.LogCaptureFixture, raises: bool) -> None:
    caplog.set_level(logging.INFO, "darkroom.access")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if raises:
            raise ClientLeft
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"nobody reads this"})

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ClientLeft:
            return

    await exchange(AccessLog(quiet), http_scope(), [{"type": "http.disconnect"}])
    (record,) = records_of(caplog, 1)
    assert (record.status, record.bytes) == (499, 0)  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_a_disconnect_after_the_answer_is_no_499(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "darkroom.access")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        await receive()

    await exchange(AccessLog(app), http_scope(), [{"type": "http.disconnect"}])
    (record,) = records_of(caplog, 1)
    assert (record.status, record.bytes) == (200, 2)  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_a_strange_method_is_no_label(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "darkroom.access")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 405, "headers": []})
        await send({"type": "http.response.body"})

    await exchange(AccessLog(app), http_scope(method="CANARY"))
    assert records_of(caplog, 1)[0].method == "other"  # type: ignore[attr-defined]


def test_metrics_are_told_the_template(tmp_path: Path) -> None:
    counted: list[tuple[str, int]] = []
    settings = settings_for(tmp_path)
    app = FastAPI()

    @app.get("/things/{name}")
    async def things(name: str) -> str:
        return name

    install(app, settings, Keyring.in_memory(), count=lambda route, status: counted.append((route, status)))
    with serve(app, settings) as live, live.client() as client:
        client.get("/things/canary")
        client.get("/canary")
    assert counted == [("/things/{name}", 200), ("other", 404)]


def test_no_route_is_other() -> None:
    assert route_template(http_scope(path="/canary")) == "other"
