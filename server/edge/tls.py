"""HTTPS: a handshake before anything else, within a time and counted like any connection.

Knows asyncio's TLS and uvicorn's server; knows nothing of requests or files. asyncio tells a protocol of a connection
only after its handshake, and gives that a minute: whoever never finished one was in no count, and held a descriptor.
Here a connection is counted as it comes, has ``header_timeout_s`` for its handshake, gives way like any that has not
sent a head, and is then handed to the protocol that reads HTTP. Whoever speaks plain HTTP is told so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from server.edge.answers import encode, error_body, error_headers
from server.edge.certificate import Certificate
from server.edge.connections import Connections, address_of
from server.edge.deadlines import protocol_with_deadlines
from server.edge.request_id import new_request_id
from server.errors import BadRequest
from server.settings import Settings

_HANDSHAKE = 22  # the type of a TLS record (RFC 8446, 5.1); no method of HTTP begins so
_LOOK_EVERY_S = 0.05

log = logging.getLogger("darkroom.edge")

Make = Callable[[], asyncio.Protocol]


def protocol_of(
    settings: Settings,
    connections: Connections,
    certificate: Certificate | None,
    *,
    failed: Callable[[], None] = lambda: None,
) -> type[asyncio.Protocol]:
    """The class to give to ``uvicorn.Config(http=…)``: HTTP with deadlines, behind a handshake if ``certificate``.

    ``failed`` is told of every handshake that came to nothing.
    """
    protocol = protocol_with_deadlines(settings, connections)
    if certificate is None:
        return protocol
    times_s = (settings.header_timeout_s, settings.write_timeout_s)

    def begin(**options: Any) -> asyncio.Protocol:
        of_server = options["server_state"].connections
        return _Handshake(
            lambda: protocol(**options), certificate, connections, of_server, times_s=times_s, failed=failed
        )

    return cast(type[asyncio.Protocol], begin)  # uvicorn calls it, and does nothing else with it


class _Handshake(asyncio.Protocol):
    """One connection until its handshake is done."""

    def __init__(
        self,
        make: Make,
        certificate: Certificate,
        counted: Connections,
        of_server: set[Any],
        *,
        times_s: tuple[float, float],  # for the handshake; for the rest of an answer once its connection closes
        failed: Callable[[], None],
    ) -> None:
        self._make = make
        self._certificate = certificate
        self._counted = counted
        self._of_server = of_server  # what uvicorn ends when it stops
        self._handshake_s, self._shutdown_s = times_s
        self._failed = failed
        self._timer: asyncio.TimerHandle | None = None  # None: it was not let in
        self._task: asyncio.Task[None] | None = None
        self._early = bytearray()  # came with the end of the handshake
        self._lost = False
        self.address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.address = address_of(transport.get_extra_info("peername"))
        if not self._counted.enter(self):
            transport.abort()  # a refusal could not be read: nothing has been agreed on
            return
        self._of_server.add(self)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._handshake_s, transport.abort)

    def give_way(self) -> None:
        self.transport.abort()

    def shutdown(self) -> None:
        """The server stops."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._task is not None:  # of the request already
            self._early += data
        elif data[0] == _HANDSHAKE:
            self.transport.pause_reading()
            # The order is that of these two: where the handshake begins, asyncio's TLS has been put in this one's place
            # and waits for its turn to be told of the connection; only behind that may it get what has come.
            self._task = self._loop.create_task(self._shake_hands(), name="handshake")
            self._loop.call_soon(self._loop.call_soon, self._pass_on, data)
        else:
            self._refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._task is None and self._timer is not None:
            self._end()
            self._failed()

    def _refuse(self) -> None:
        """Say in plain HTTP that this is no place for it."""
        error = BadRequest("This port speaks HTTPS: write https:// before its address.")
        request_id = new_request_id()
        body = encode(error_body(error, request_id))
        headers = {**error_headers(error, request_id), "content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")
        self.transport.write(STATUS_LINE[error.answer.status] + head + b"\r\n" + body)
        self.transport.close()

    def _pass_on(self, data: bytes) -> None:
        """Give the first bytes to whoever is to have them."""
        receiver = cast(asyncio.BufferedProtocol, self.transport.get_protocol())
        while data and not self.transport.is_closing():
            room = memoryview(receiver.get_buffer(len(data)))
            taken = min(len(room), len(data))
            room[:taken] = data[:taken]
            receiver.buffer_updated(taken)
            data = data[taken:]

    async def _shake_hands(self) -> None:
        secured: asyncio.Transport | None = None
        try:
            secured = await self._loop.start_tls(
                self.transport,
                self,
                self._certificate.context,
                server_side=True,
                ssl_handshake_timeout=self._handshake_s,  # the timer began before, and ends it first
                ssl_shutdown_timeout=self._shutdown_s,
            )
        except OSError as error:  # TimeoutError, ssl.SSLError and a connection that ended among them
            log.debug("handshake failed", extra={"reason": getattr(error, "reason", None) or type(error).__name__})
        finally:
            self._end()
            # asyncio takes a connection that ended in its handshake for one that is done.
            if secured is None or self._lost or self.transport.is_closing():
                self.transport.abort()
                self._failed()
                secured = None
        if secured is not None:
            self._hand_over(secured)

    def _end(self) -> None:
        """This is no connection that waits for its handshake any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._counted.leave(self)
        self._of_server.discard(self)

    def _hand_over(self, secured: asyncio.Transport) -> None:
        protocol = self._make()
        secured.set_protocol(protocol)
        protocol.connection_made(_Secured(secured, self.transport))
        if self._early and not secured.is_closing():
            protocol.data_received(bytes(self._early))


class _Secured(asyncio.Transport):
    """A TLS transport that counts what waits below it too, may be closed twice, and ends at once when it is aborted.

    asyncio's own waits, when it is closed, until the other side has said that it closes too, as clients that keep idle
    connections never do: a server that stops would wait for them. Here it has gone once all has been sent.
    """

    def __init__(self, secured: asyncio.Transport, below: asyncio.Transport) -> None:
        super().__init__()
        self._secured = secured
        self._below = below

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._secured.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._secured.is_closing() or self._below.is_closing()

    def close(self) -> None:
        if not self._secured.is_closing():
            self._secured.close()
            self._close_below()

    def _close_below(self) -> None:
        """Close what sends, once all is encrypted; until then TLS needs it, for as long as ``write_timeout_s``."""
        if self._below.is_closing():
            return
        if self._secured.get_write_buffer_size() == 0:
            self._below.close()
        else:
            asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._close_below)

    def abort(self) -> None:
        self._below.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._secured.write(data)

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not taken, not those alone that are not encrypted yet."""
        return self._secured.get_write_buffer_size() + self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._secured.set_write_buffer_limits(high, low)

    def is_reading(self) -> bool:
        return self._secured.is_reading()

    def pause_reading(self) -> None:
        self._secured.pause_reading()

    def resume_reading(self) -> None:
        self._secured.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._secured.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._secured.get_protocol()
