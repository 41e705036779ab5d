from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.edge.deadlines import MAX_HEAD_BYTES
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


NOT_HTTP = {
    "tls": (b"\x16\x03\x01\x02\x00\x01", 400),
    "text": (b"and another thing\r\n\r\n", 400),
    "two framings": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a bad chunk": (b"POST /read HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a long head": (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
}


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("behind", NOT_HTTP)
def test_garbage_behind_a_request_does_not_take_its_answer(
    room: tuple[Live, Witness], behind: str, together: bool, before: int
) -> None:
    """Bytes behind a whole request that were not HTTP cost it its answer; its client could not tell why."""
    live, _ = room
    garbage, status = NOT_HTTP[behind]
    asked = b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n" * before
    with live.connect() as connection:
        connection.sendall(asked + garbage if together else asked)
        if not together:
            time.sleep(0.05)
            connection.sendall(garbage)
        raw = read_all(connection)
    assert raw.count(b"data: 2") == before
    assert raw.count(b"HTTP/1.1 ") == before + 1
    assert parse(raw[raw.rindex(b"HTTP/1.1 ") :]).status_code == status


def test_a_client_that_leaves_behind_its_garbage_is_seen(room: tuple[Live, Witness]) -> None:
    live, witness = room
    with live.connect() as connection:
        connection.sendall(WORK + b"\0" * 200)
        assert wait_for(witness, "entered", 5)
        time.sleep(0.05)
        assert not witness.cancelled
    assert wait_for(witness, "cancelled", LOOK_EVERY_S * 4 + 2)


@pytest.mark.parametrize("path", [b"/read", b"/swallow"])
@pytest.mark.parametrize(
    ("frame", "status"),
    [
        (b"zz\r\nhello", 400),
        (b"2\r\n{}\r\n0\r\nX: " + b"x" * 300_000, 431),
        (b"2\r\n{}\r\n0\r\n" + b"X: x\r\n" * 5000 + b"\r\n", 431),
        (b"2;" + b"x" * 300_000, 431),
    ],
    ids=["no chunk", "an endless trailer", "many trailers", "an endless chunk extension"],
)
def test_a_body_that_is_framed_wrong_is_refused(
    room: tuple[Live, Witness], path: bytes, frame: bytes, status: int
) -> None:
    """A trailer without an end was kept, and copied with every packet: 90 MB of one held the event loop for 12 s.

    A frame that was not HTTP closed the connection without a word.
    """
    live, _ = room
    with live.connect(timeout_s=5) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        time.sleep(0.05)
        _send(connection, frame)
        raw = read_all(connection)
    assert raw.count(b"HTTP/1.1 ") == 1
    assert parse(raw).status_code == status


def test_small_chunks_and_short_trailers_are_read(room: tuple[Live, Witness]) -> None:
    live, _ = room
    with live.connect() as connection:
        connection.sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"1;name=value\r\nx\r\n" * 50_000 + b"0\r\nExpires: never\r\n\r\n")
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        raw = read_all(connection)
    assert b'{"bytes":50000}' in raw
    assert raw.endswith(b'{"ok":true}')
