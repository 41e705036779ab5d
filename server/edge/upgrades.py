"""Upgrades: an offer to change protocols is declined the way HTTP means it: by answering the request that carries it.

Knows httptools' parser; knows nothing of time or size. Java's HttpClient, and so LangChain4j and Spring AI,
offers h2c with every first request, POSTs with a body included. httptools then skips the body, the route sees
none, and what follows in the same packet is lost. Here a fresh parser goes on behind such a head, told the
same framing. Beside what ``deadlines`` lists, this replaces uvicorn's ``parser`` and asks its
``_should_upgrade()`` and ``headers``.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class UpgradesDeclined(HttpToolsProtocol):
    """uvicorn's protocol, which goes on with the body behind an offer that is declined."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)  # type: ignore[assignment]  # the same methods
        self.retelling = False  # the parser is being told a head that was handed over already

    def on_message_begin(self) -> None:
        if not self.retelling:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self.retelling:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.retelling:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.retelling:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.body_was_skipped():
            super().on_message_complete()

    def body_was_skipped(self) -> bool:
        """Has the parser called a message complete whose body is still to come?"""
        return self.parser.should_upgrade() and not self._should_upgrade() and self.framing() is not None

    def framing(self) -> bytes | None:
        """The header line that says how the present body is framed; None if there is no body."""
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
                return name + b": " + value
        return None


class _Parser:
    """httptools' parser with the same methods, which survives an offer that is declined."""

    def __init__(self, protocol: UpgradesDeclined) -> None:
        self._protocol = protocol
        self._inner = self._fresh()

    def _fresh(self) -> Any:
        parser = httptools.HttpRequestParser(self._protocol)
        # As uvicorn does, so that a request pipelined behind "connection: close" does not spoil the answer.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def feed_data(self, data: bytes) -> None:
        while True:
            try:
                self._inner.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                if self._protocol._should_upgrade():
                    raise
                data = data[offer.args[0] :]
                self._go_on()

    def _go_on(self) -> None:
        framing = self._protocol.framing() if self._protocol.body_was_skipped() else None
        self._inner = self._fresh()
        if framing is None:
            return
        self._protocol.retelling = True
        try:
            self._inner.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        finally:
            self._protocol.retelling = False

    def get_http_version(self) -> str:
        return str(self._inner.get_http_version())

    def get_method(self) -> bytes:
        return bytes(self._inner.get_method())

    def should_upgrade(self) -> bool:
        return bool(self._inner.should_upgrade())

    def should_keep_alive(self) -> bool:
        return bool(self._inner.should_keep_alive())
