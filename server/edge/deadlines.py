"""Deadlines: a request's head arrives in time and within a size, and answers are taken, or the connection goes.
Where there are too many connections, those without a request go first (``connections``).

Knows uvicorn's httptools protocol; knows nothing of requests. uvicorn waits for ever for a head that drips
or never comes (uvicorn#157), and keeps whatever head it is sent in memory. The deadline runs from connecting
and from the first byte of every later request; between requests uvicorn's own keep-alive timer rules.
Refusals of this layer, malformed requests included, have the one error shape, and follow the answers to the requests
before them. What a body's frame holds beside its data, chunk extensions and trailers, is bounded like a head.

A client that stops reading would keep its answer in our memory for ever, and a stream's producer waiting: once the
socket takes nothing more, some of what waits must leave within ``write_timeout_s``, and again, until all has left.

uvicorn calls none of this public, so ``LEANS_ON`` lists what is overridden or read, and a test compares it
with the uvicorn that is installed:

- overridden, always calling on: the ``asyncio.Protocol`` methods and httptools' ``on_*`` callbacks;
- replaced: ``send_400_response(msg)``, which ``data_received`` calls when the parser, or a callback, fails;
- read: ``transport``, ``loop``, ``url``, ``scope``, ``pipeline``, ``flow`` with its ``write_paused`` and
  ``read_paused``, and ``cycle`` with its ``response_started``, ``response_complete`` and ``disconnected``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.edge.answers import encode, error_body, error_headers
from server.edge.connections import Connections, address_of, max_connections
from server.edge.cors import Origins
from server.edge.http10 import OldClients
from server.edge.paths import plain_target
from server.edge.request_id import new_request_id
from server.errors import BadRequest, Busy, DarkroomError, SlowClient, TooLarge
from server.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
HEADER_COST = 32  # bytes that a header counts beside its own, as in HTTP/2: 60,000 empty ones were 8 MB of objects
LEANS_ON = {
    "methods": (
        "connection_made",
        "connection_lost",
        "data_received",
        "on_message_begin",
        "on_body",
        "on_url",
        "on_header",
        "on_headers_complete",
        "on_message_complete",
        "send_400_response",
        "_should_upgrade",
        "pause_writing",
        "resume_writing",
        "on_response_complete",
        "_start_asgi_task",
    ),
    "attributes": ("transport", "loop", "cycle", "flow", "parser", "headers", "pipeline", "scope"),
}


def protocol_with_deadlines(settings: Settings, connections: Connections | None = None) -> type[HttpToolsProtocol]:
    """The class to give to ``uvicorn.Config(http=…)``. Its connections count in ``connections``."""

    class Protocol(DeadlineProtocol):
        counted = (  # without a connection, they are false
            Connections(max_connections(settings), per_address=settings.max_connections_per_address)
            if connections is None
            else connections
        )
        origins = Origins(settings)
        header_timeout_s = settings.header_timeout_s
        write_timeout_s = settings.write_timeout_s

    return Protocol


class DeadlineProtocol(OldClients):
    """uvicorn's protocol with deadlines for heads and answers, a size for heads, and a number of connections."""

    counted: Connections
    origins: Origins
    header_timeout_s: float
    write_timeout_s: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_message = False  # between the end of a head and the end of its body
        self._received = 0  # bytes since the last complete head, parsed or not
        self._parsed = 0  # bytes of the present head, as the parser hands them over
        self._unheard = 0  # bytes since the last of a body's data, while one arrives
        self._refusal: tuple[DarkroomError, int | None] | None = None  # to be written behind the answers that are due
        self.address = ""

    # Time, and room

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = address_of(transport.get_extra_info("peername"))
        if self.counted.enter(self):
            self._start_timer()
        else:
            self._refuse(Busy("There are too many connections.", retry_after_s=1))

    def give_way(self) -> None:
        """Close: another connection needs the room, and here it is the client that is waited for."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.counted.leave(self)
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_timeout_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timer()  # pipelined behind an answer that is still being made: that one comes first
        elif self._received == 0 and self._parsed == 0:
            self.transport.close()  # a browser's spare connection: it asked nothing
        else:
            self._refuse(SlowClient(f"The headers did not arrive within {self.header_timeout_s:g} seconds."))

    def pause_writing(self) -> None:
        super().pause_writing()
        self.counted.slow(self)
        self._watch_writing()

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()
        if not self._in_message:
            self.counted.at_work(self)
        self._watch_the_rest()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_the_rest()
        if self._refusal is not None and self.cycle.response_complete and not self.transport.is_closing():
            self._write_refusal(*self._refusal)
        else:
            self._be_idle()

    def _be_idle(self) -> None:
        """Wait for the next request, once this answer has left: a connection that waits gives way to others."""
        whole = self.cycle is None or self.cycle.response_complete
        if whole and not self._in_message and not self.transport.get_write_buffer_size():
            self.counted.answered(self)

    def _watch_the_rest(self) -> None:
        """The end of an answer may wait although writing is not paused; so would a connection that closes then."""
        whole = self.cycle is None or self.cycle.response_complete
        if whole and self._write_timer is None and self.transport.get_write_buffer_size():
            self.counted.slow(self)
            self._watch_writing()

    def _watch_writing(self) -> None:
        self._stop_write_timer()
        waiting = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.write_timeout_s, self._look_at_reader, waiting)

    def _look_at_reader(self, waiting: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left == 0:
            self._stop_write_timer()
            self._be_idle()
        elif left < waiting:
            self._watch_writing()
        else:
            self.transport.abort()  # close() would wait for the reader

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # Size, and the edges of a head

    def data_received(self, data: bytes) -> None:
        if not self._in_message and not self.given_up:
            self._start_timer()
            self._received += len(data)
        self._unheard += len(data)
        super().data_received(data)
        endless = self._unheard if self._in_message else self._received
        if endless > MAX_HEAD_BYTES and not self.given_up and not self.transport.is_closing():
            self._refuse_long_head()  # one endless header or trailer, which the parser has not handed over yet

    def on_message_begin(self) -> None:
        self._in_message = False
        self._parsed = 0
        self._start_timer()
        if not self.flow.write_paused:
            self._stop_write_timer()  # the next answer will add to what waits
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + HEADER_COST)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._received = self._unheard = 0
        self.counted.asked(self)
        if self.counted.is_spare(self):
            self.scope["state"]["spare_connection"] = True
        self.url = plain_target(self.url)
        super().on_headers_complete()
        self._in_message = True  # not where this fails: then there is no request yet

    def on_body(self, body: bytes) -> None:
        self._unheard = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = self.body_was_skipped()
        self._received = self._parsed = 0
        super().on_message_complete()
        if not self._in_message and not self.flow.write_paused:
            self.counted.at_work(self)
        self._be_idle()  # where the answer came before the end of the body

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > MAX_HEAD_BYTES:
            raise _too_long()  # in a callback: httptools stops, and uvicorn calls send_400_response

    # Refusals

    def send_400_response(self, msg: str) -> None:
        if self._parsed > MAX_HEAD_BYTES:
            self._refuse_long_head()
        else:
            self._refuse(BadRequest("This is not a well-formed HTTP request."))

    def _refuse_long_head(self) -> None:
        # 431 is said by this layer alone, so it has no row in the table; to clients it is a TooLarge.
        self._refuse(_too_long(), status=431)

    def _refuse(self, error: DarkroomError, status: int | None = None) -> None:
        """Write the answer and close; but first, the requests that came whole are answered."""
        self._stop_timer()
        if self._in_message and self.cycle is not None:
            if self.cycle.response_complete or not self._forget_last():
                self.transport.close()  # a second answer would land in the middle of the first
                return
            self._in_message = False
        if self.cycle is None or self.cycle.response_complete or self.cycle.disconnected:
            self._write_refusal(error, status)
        else:
            self._refusal = error, status
            self._throw_away()

    def _write_refusal(self, error: DarkroomError, status: int | None) -> None:
        """No application runs, so the bytes are made here."""
        request_id = new_request_id()
        body = encode(error_body(error, request_id))
        headers = {
            **error_headers(error, request_id),
            "content-length": str(len(body)),
            "connection": "close",
        }
        headers |= self.origins.refusal_headers(self.headers or (), headers)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")
        self.transport.write(STATUS_LINE[status or error.answer.status] + head + b"\r\n" + body)
        self.transport.close()


def _too_long() -> TooLarge:
    return TooLarge(f"The headers are larger than {MAX_HEAD_BYTES} bytes.")
