"""A real server on a real loopback socket, in a thread, and raw sockets to treat it badly with."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import uvicorn

from server.edge.certificate import Certificate
from server.edge.connections import Connections, max_connections
from server.edge.tls import protocol_of
from server.settings import Settings


def settings_for(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(data_dir=tmp_path, **changes)


@dataclass
class Live:
    port: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        # Plain HTTP: to read the authorities of TLS takes 25 ms of CPU time for each client.
        return httpx.Client(base_url=self.url, **{"timeout": 10, "trust_env": False, "verify": False, **options})

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)


@contextlib.contextmanager
def serve(
    app: Any,
    settings: Settings,
    *,
    certificate: Certificate | None = None,
    connections: Connections | None = None,
    loop: Literal["auto", "asyncio"] = "auto",
) -> Iterator[Live]:
    """Serve ``app`` as the product does: with the deadline protocol, without uvicorn's own access log."""
    if connections is None:
        connections = Connections(max_connections(settings), per_address=settings.max_connections_per_address)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        loop=loop,
        http=protocol_of(settings, connections, certificate),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server.started
        yield Live(listener.getsockname()[1], settings.scheme)
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes. A reset counts as a close; a timeout raises."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def read_answer(connection: socket.socket) -> httpx.Response:
    """One response with a Content-Length from a connection that stays open."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        assert chunk, bytes(received)
        received += chunk
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    answer = parse(head + b"\r\n\r\n")
    while len(body) < int(answer.headers["content-length"]):
        chunk = connection.recv(65536)
        assert chunk, body
        body += chunk
    return httpx.Response(answer.status_code, headers=answer.headers, content=body)


def parse(raw: bytes) -> httpx.Response:
    """The bytes of one response, for assert_api_error."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.partition(": ")[::2] for line in lines]
    return httpx.Response(int(status.split()[1]), headers=pairs, content=body)
