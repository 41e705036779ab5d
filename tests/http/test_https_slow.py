"""HTTPS over a real socket: clients that never finish their handshake, or never take their answer."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.edge.certificate import Certificate
from server.edge.connections import Connections
from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.certificates import Authority
from tests.running import eventually
from tests.unit.edge.live import Live, parse, read_all, serve, settings_for
from tests.unit.edge.rooms import make_app


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture(scope="module")
def files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return authority.write(tmp_path_factory.mktemp("certificate"), "localhost", "127.0.0.1")


@pytest.fixture
def trust(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


def tls(live: Live, trust: ssl.SSLContext) -> ssl.SSLSocket:
    return trust.wrap_socket(live.connect(), server_hostname="127.0.0.1")


@contextlib.contextmanager
def counted(
    files: tuple[Path, Path], tmp_path: Path, limit: int, per_address: int = 0
) -> Iterator[tuple[Live, Connections, list[str]]]:
    """A server with room for so many connections, and half a second for a handshake."""
    closed: list[str] = []
    settings = settings_for(tmp_path, header_timeout_s=0.5, tls_cert=files[0], tls_key=files[1])
    room = Connections(limit, per_address=per_address, count=closed.append)
    app = make_app(settings, Keyring.in_memory())
    with serve(app, settings, certificate=Certificate(*files), connections=room) as live:
        yield live, room, closed


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x02\x00\x01" + b"\0" * 400])
def test_a_handshake_that_does_not_end_is_ended(files: tuple[Path, Path], tmp_path: Path, said: bytes) -> None:
    """asyncio gives each a minute, and counts none."""
    with counted(files, tmp_path, 100) as (live, room, _), live.connect() as connection:
        connection.sendall(said)
        eventually(lambda: len(room) == 1)
        began = time.monotonic()
        read_all(connection)
        assert time.monotonic() - began < 5
        eventually(lambda: len(room) == 0)


def test_a_handshake_that_drips_is_ended(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The time is for all of it, not from one byte to the next."""
    with counted(files, tmp_path, 100) as (live, _, _), live.connect() as connection:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"\x16\x03\x01\x02\x00\x01" + b"\0" * 200:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert 0.4 < time.monotonic() - began < 5


def test_handshakes_give_way_to_those_who_ask(files: tuple[Path, Path], tmp_path: Path, trust: ssl.SSLContext) -> None:
    """Whoever opened connections and said nothing kept everybody else out, for a minute each."""
    with counted(files, tmp_path, 16) as (live, room, closed), contextlib.ExitStack() as silent:
        for _ in range(40):
            silent.enter_context(live.connect())
        eventually(lambda: len(closed) >= 24)
        assert len(room) <= 16
        assert set(closed) == {"gave_way"}
        with live.client(verify=trust) as client:
            assert client.get("/livez").status_code == 200


def test_a_connection_too_many_is_closed_before_its_handshake(
    files: tuple[Path, Path], tmp_path: Path, trust: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    with counted(files, tmp_path, 16, per_address=1) as (live, room, closed), tls(live, trust) as busy:
        busy.sendall(
            b"POST /work HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 14\r\n\r\n{"prompt":"a"}'
        )
        eventually(lambda: len(room) == 1)
        time.sleep(0.2)
        with live.connect() as refused:
            assert read_all(refused) == b""
        assert closed == ["refused_address"]
        assert len(room) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_silence_behind_the_handshake_is_closed_too(
    files: tuple[Path, Path], tmp_path: Path, trust: ssl.SSLContext
) -> None:
    with counted(files, tmp_path, 100) as (live, room, _), tls(live, trust) as connection:
        eventually(lambda: len(room) == 1)
        began = time.monotonic()
        assert read_all(connection) == b""
        assert 0.4 < time.monotonic() - began < 5
    with counted(files, tmp_path, 100) as (live, _, _), tls(live, trust) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX-Half: ")
        assert_api_error(parse(read_all(connection)), 408, "request_timeout")


def test_an_answer_that_nobody_takes_is_ended(files: tuple[Path, Path], tmp_path: Path, trust: ssl.SSLContext) -> None:
    settings = settings_for(tmp_path, write_timeout_s=0.5, tls_cert=files[0], tls_key=files[1])
    room = Connections(100)

    async def large(scope: object, receive: object, send: object) -> None:
        if scope["type"] == "http":  # type: ignore[index]
            await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
            for _ in range(200):
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})  # type: ignore[operator]
        else:
            message = await receive()  # type: ignore[operator]
            await send({"type": f"{message['type']}.complete"})  # type: ignore[operator]

    with serve(large, settings, certificate=Certificate(*files), connections=room) as live, live.connect() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(10)
            eventually(lambda: len(room) == 0, within_s=20)
