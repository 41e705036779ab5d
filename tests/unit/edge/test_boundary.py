from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from server.edge.boundary import ErrorBoundary
from server.edge.disconnect import ClientLeft
from server.edge.keys import Keyring
from server.errors import QueueFull
from tests.unit.edge.asgi import exchange, http_scope
from tests.unit.edge.live import serve, settings_for
from tests.unit.edge.rooms import make_app


def raising(error: Exception, *, begun: bool) -> ErrorBoundary:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return ErrorBoundary(app)


@pytest.mark.anyio
async def test_each_kind_of_exception_becomes_one_answer() -> None:
    assert (await exchange(raising(QueueFull("x"), begun=False), http_scope()))[0]["status"] == 429
    assert (await exchange(raising(ValueError("x"), begun=False), http_scope()))[0]["status"] == 500
    assert await exchange(raising(ClientLeft(), begun=False), http_scope()) == []


@pytest.mark.anyio
@pytest.mark.parametrize("error", [QueueFull("x"), ValueError("x"), ClientLeft()])
async def test_an_answer_that_has_begun_is_not_answered_again(error: Exception) -> None:
    assert len(await exchange(raising(error, begun=True), http_scope())) == 1


def test_an_accident_is_logged_with_its_place_and_id_but_not_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live, live.client() as client:
        request_id = client.get("/fail/accident").headers["x-request-id"]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.request_id == request_id  # type: ignore[attr-defined]
    assert "RuntimeError" in record.getMessage()
    assert "rooms.py" in record.getMessage()
    assert "0x7f" not in repr([vars(each) for each in caplog.records])


def test_a_stream_that_breaks_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_for(tmp_path)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live, live.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/broken-stream")
        assert client.get("/livez").status_code == 200
    assert sum("unforeseen" in record.getMessage() for record in caplog.records) == 1
