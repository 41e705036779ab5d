"""HTTP/1.0: answers of unknown length end with their connection, since such clients know no chunks (RFC 9112, 6.1).

Knows uvicorn's RequestResponseCycle; knows nothing of routes. uvicorn frames every such answer in chunks, and an
HTTP/1.0 client takes the lengths between them for part of the answer. An ``Expect`` of HTTP/1.0 is ignored, as
RFC 9110 (10.1.1) has it.
"""

from __future__ import annotations

import sys

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from server.edge.pipelining import Pipelining


class CloseDelimitedCycle(RequestResponseCycle):
    """uvicorn's cycle, which writes what has no Content-Length as it is; the connection closes behind it."""

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start" and not self.response_started:
            headers = [pair for pair in message.get("headers", []) if pair[0].lower() != b"transfer-encoding"]
            message = {**message, "headers": headers}
            if all(name.lower() != b"content-length" for name, _ in headers):
                self.chunked_encoding = False
                self.expected_content_length = sys.maxsize
        elif message["type"] == "http.response.body" and self.expected_content_length > sys.maxsize // 2:
            more = message.get("more_body", False)
            self.expected_content_length = sys.maxsize if more else len(message.get("body", b""))
        await super().send(message)


class OldClients(Pipelining):
    """uvicorn's protocol, which answers HTTP/1.0 without chunks and without 100 Continue."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            self.cycle.__class__ = CloseDelimitedCycle
            self.cycle.waiting_for_100_continue = False
