from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.edge.keys import Keyring
from server.edge.request_id import RequestIds, WithRequestId, chosen_id, current_request_id
from tests.unit.edge.asgi import exchange, http_scope
from tests.unit.edge.live import read_answer, serve, settings_for
from tests.unit.edge.rooms import make_app

OURS = re.compile(r"req_[0-9a-f]{24}")


@pytest.mark.parametrize("sent", ["a", "A-b_c.9", "x" * 64])
def test_a_plain_id_is_kept(sent: str) -> None:
    assert chosen_id(http_scope(headers=[(b"x-request-id", sent.encode())])) == sent


@pytest.mark.parametrize(
    "sent",
    [b"", b"x" * 65, b"a b", b"a\r\nset-cookie: b", b"a\n", b'\n{"level"', b"\xe9", b"a/b", "١".encode()],
)
def test_any_other_is_replaced(sent: bytes) -> None:
    assert OURS.fullmatch(chosen_id(http_scope(headers=[(b"x-request-id", sent)])))


def test_two_ids_are_none() -> None:
    pair = [(b"x-request-id", b"a"), (b"x-request-id", b"b")]
    assert OURS.fullmatch(chosen_id(http_scope(headers=pair)))


@pytest.mark.anyio
async def test_it_is_in_the_scope_the_context_and_the_answer_once() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([scope["state"]["request_id"], current_request_id.get()])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Request-Id", b"forged")]})
        await send({"type": "http.response.body", "body": b""})

    sent: list[Message] = await exchange(RequestIds(app), http_scope(headers=[(b"x-request-id", b"mine")]))
    assert seen == ["mine", "mine"]
    assert sent[0]["headers"] == [(b"x-request-id", b"mine")]
    assert current_request_id.get() == "-"


def test_every_answer_on_a_connection_has_its_own(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live, live.connect() as connection:
        ids = []
        for _ in range(3):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            ids.append(read_answer(connection).headers["x-request-id"])
    assert len(set(ids)) == 3
    assert all(OURS.fullmatch(one) for one in ids)


def test_log_records_get_the_id_of_the_request_at_hand() -> None:
    def record(**fields: str) -> logging.LogRecord:
        made = logging.makeLogRecord(fields)
        assert WithRequestId().filter(made)
        return made

    assert not hasattr(record(), "request_id")
    token = current_request_id.set("req_1")
    assert record().request_id == "req_1"  # type: ignore[attr-defined]
    assert record(request_id="req_2").request_id == "req_2"  # type: ignore[attr-defined]
    current_request_id.reset(token)
