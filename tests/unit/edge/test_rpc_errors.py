"""Errors at /mcp are JSON-RPC's; elsewhere, and where they are that already, they stay as they are."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from server.edge.answers import error_response
from server.edge.rpc_errors import RpcErrors
from server.errors import Draining, Unauthorized

pytestmark = pytest.mark.anyio
OURS = error_response(Unauthorized("No API key."), "req_1")


async def get(app: Any, path: str = "/mcp") -> httpx.Response:
    transport = httpx.ASGITransport(RpcErrors(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return await client.get(path)


async def test_status_and_headers_stay_and_the_message_is_where_clients_look_for_it() -> None:
    answer = await get(OURS)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.json() == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {
            "code": -32600,
            "message": "No API key.",
            "data": {"type": "authentication_error", "param": None, "code": "invalid_api_key"},
        },
    }


async def test_a_fault_of_the_server_has_the_number_of_one() -> None:
    answer = await get(error_response(Draining("Going."), "req_1"))
    assert answer.json()["error"]["code"] == -32603
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"error": "text"}', b'{"jsonrpc": "2.0", "error": {"message": "theirs"}}', b"0" * 70_000],
)
async def test_what_is_no_error_of_ours_stays_as_it_is(body: bytes) -> None:
    answer = await get(Response(body, status_code=400))
    assert answer.content == body


async def test_other_paths_and_answers_stay_as_they_are() -> None:
    assert (await get(OURS, "/v1/models")).json() == json.loads(bytes(OURS.body))
    assert (await get(Response(OURS.body))).content == OURS.body
