from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.edge.keys import Keyring
from server.edge.pipelining import LOOK_EVERY_S, MAX_PIPELINED
from tests.unit.edge.live import Live, parse, read_all, serve, settings_for
from tests.unit.edge.rooms import Witness, make_app

BODY = b'{"prompt": "a cat"}'
WORK = (
    b"POST /work HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
    + BODY
)
PING = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
BEHIND = {
    "nothing": b"",
    "a request": PING,
    "many": PING * 40,
    "very many": PING * 120,
    "more than is read": (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 60_000 + b"\r\n\r\n") * 40,
    "half a request": b"GET /li",
    "the same": WORK * 3,
    "a large body": b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 900_000,
}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[tuple[Live, Witness]]:
    settings = settings_for(tmp_path)
    app = make_app(settings, Keyring.in_memory())
    with serve(app, settings) as live:
        yield live, app.state.witness


def wait_for(witness: Witness, attribute: str, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not getattr(witness, attribute) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(getattr(witness, attribute))


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("behind", BEHIND)
def test_work_ends_although_something_is_pipelined_behind_it(
    room: tuple[Live, Witness], behind: str, together: bool, half: bool
) -> None:
    """A request behind another hid that its client had left: 147 steps more were drawn, for nobody."""
    live, witness = room
    with live.connect() as connection:
        connection.setblocking(False)
        _send(connection, WORK + BEHIND[behind] if together else WORK)
        assert wait_for(witness, "entered", 5)
        if not together:
            _send(connection, BEHIND[behind])
        time.sleep(0.05)
        assert not witness.cancelled
        if half:
            connection.shutdown(socket.SHUT_WR)
            assert wait_for(witness, "cancelled", LOOK_EVERY_S * 4 + 2)
            return
    assert wait_for(witness, "cancelled", LOOK_EVERY_S * 4 + 2)


def _send(connection: socket.socket, data: bytes) -> None:
    """As much as the server takes; it need not read what stands behind."""
    deadline = time.monotonic() + 0.3
    while data and time.monotonic() < deadline:
        try:
            data = data[connection.send(data) :]
        except BlockingIOError:
            time.sleep(0.01)


def test_what_is_pipelined_never_begins_for_a_client_that_left(room: tuple[Live, Witness]) -> None:
    live, witness = room
    with live.connect() as connection:
        connection.sendall(WORK * 5)
        assert wait_for(witness, "entered", 5)
    assert wait_for(witness, "cancelled", LOOK_EVERY_S * 4 + 2)
    time.sleep(0.2)
    assert witness.entered == 1


def test_so_many_may_wait_and_no_more(room: tuple[Live, Witness]) -> None:
    """One packet can hold ten thousand requests, and each of them costs some kilobytes."""
    live, _ = room
    with live.connect() as connection:
        last = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(PING * MAX_PIPELINED + last)
        assert read_all(connection).count(b'{"ok":true}') == MAX_PIPELINED + 1
    with live.connect() as connection:
        try:
            connection.sendall(PING * 20_000)
            answered = read_all(connection).count(b'{"ok":true}')
        except OSError:
            answered = 0
        assert answered < 20_000


def test_a_large_body_behind_is_given_up_and_the_answer_before_it_is_not(room: tuple[Live, Witness]) -> None:
    live, witness = room
    with live.connect() as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n" + BEHIND["a large body"] + b"x" * 100_000)
        raw = read_all(connection)
    assert raw.count(b"HTTP/1.1") == 1
    assert raw.endswith(b"data: 2\n\n\r\n0\r\n\r\n")
    assert witness.read is None


def test_a_client_that_stays_is_answered_in_order(room: tuple[Live, Witness]) -> None:
    live, _ = room
    with live.connect() as connection:
        stream = b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
        last = b"GET /v1/models/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(stream * 3 + last)  # lasts longer than two looks
        raw = read_all(connection)
    assert raw.count(b"data: 2") == 3
    assert raw.endswith(b'{"id":"last"}')
    assert parse(raw).status_code == 200
