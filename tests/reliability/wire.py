"""HTTP/1.1 as these suites speak it: one request a connection, and every byte of what comes back.

Knows sockets and framing; knows nothing of pictures. An HTTP library would pool connections, repeat requests and drop
what comes behind an answer, and these suites count exactly that.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

HOST = "127.0.0.1"
MAX_LINE_BYTES = 64 * 1024 * 1024  # an event of a stream is one line


class Closed(Exception):
    """A connection that ended before the whole answer."""


class Refused(Exception):
    """Nobody listens."""


@dataclass(frozen=True)
class Answer:
    """A whole answer, and what came behind it before the connection ended: nothing, if all is well."""

    status: int
    headers: dict[str, str]
    body: bytes
    rest: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


def request_bytes(
    method: str, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None, close: bool = True
) -> bytes:
    lines = {"host": "localhost", **(headers or {})}
    if body or method == "POST":
        lines["content-length"] = str(len(body))
    if close:
        lines["connection"] = "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def connect(port: int, *, source: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection. Raises Refused."""
    local = (source, 0) if source else None
    try:
        return await asyncio.open_connection(HOST, port, limit=MAX_LINE_BYTES, local_addr=local)
    except ConnectionRefusedError:
        raise Refused from None
    except ConnectionError as error:
        raise Closed(type(error).__name__) from None


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next whole answer. Raises Closed."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, await _chunks(reader))
        if "content-length" in headers:
            return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))
        return Answer(status, headers, await reader.read())
    except asyncio.IncompleteReadError as error:
        raise Closed(f"after {len(error.partial)} bytes") from None
    except ConnectionError as error:
        raise Closed(f"read: {type(error).__name__}") from None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    found = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        found.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(found)


async def exchange(port: int, request: bytes, *, timeout_s: float) -> Answer:
    """The answer to a request, read until the connection ends. Raises Refused, Closed, TimeoutError."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await connect(port)
        try:
            try:
                writer.write(request)
                await writer.drain()
            except ConnectionError as error:
                raise Closed(f"write: {type(error).__name__}") from None
            answer = await read_answer(reader)
            try:
                rest = await reader.read()
            except ConnectionError:
                rest = b""
            return Answer(answer.status, answer.headers, answer.body, rest)
        finally:
            writer.transport.abort()


def leave(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """Close at once: with a reset, or in order."""
    if reset:
        opened: socket.socket = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# For the suites' main thread, which looks on and does nothing else.


def get(port: int, path: str, key: str | None = None, *, timeout_s: float = 30.0) -> Answer:
    """Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=bearer(key))
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def bearer(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


class Metrics:
    """The samples of one look at /metrics."""

    def __init__(self, text: str) -> None:
        self._rows = [row for family in text_string_to_metric_families(text) for row in family.samples]

    @classmethod
    def of(cls, port: int, key: str | None) -> Metrics:
        return cls(get(port, "/metrics", key).body.decode())

    def sum(self, sample: str, **labels: str) -> float:
        return sum(row.value for row in self._rows if row.name == sample and labels.items() <= row.labels.items())

    @property
    def permits(self) -> int:
        return round(self.sum("darkroom_queue_jobs"))

    @property
    def steps(self) -> int:
        return round(self.sum("darkroom_steps_total"))

    @property
    def server_faults(self) -> int:
        """Answers of 500 and more, but for /readyz, which says "not yet" in that way."""
        rows = (row for row in self._rows if row.name == "darkroom_requests_total" and row.labels["route"] != "/readyz")
        return round(sum(row.value for row in rows if row.labels["status"].startswith("5")))
