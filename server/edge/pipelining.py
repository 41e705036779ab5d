"""Pipelining: what is sent behind a request that is still being answered neither hides its client nor grows for ever.

Knows uvicorn's httptools protocol and sockets; knows nothing of time limits. uvicorn stops reading while a request
waits behind another, so it never reads the end of the connection; and of a connection that ends it tells only the
request that came last. The work of a client that had left went on to its end. Here every request of the connection
is told, and while reading rests the socket itself is asked, every ``LOOK_EVERY_S``, whether its other side has gone.
A client that shuts only its sending side counts as gone, as it does where nothing is pipelined.

Where more is sent than is read ahead, the end of the connection waits behind it, and no look at the socket finds it. So
what is behind is given up: it is read and thrown away, and the connection closes with the present answer, upon which
a client sends the rest again (RFC 9112, 9.3.2).

Where what is behind is not HTTP, the requests before it keep their answers, and the refusal comes behind those.

Beside what ``deadlines`` lists, this overrides uvicorn's ``_start_asgi_task`` and ``on_body``, and reads ``pipeline``
and ``flow.read_paused``.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from server.edge.upgrades import UpgradesDeclined

LOOK_EVERY_S = 0.5
MAX_PIPELINED = 128  # requests behind the one that is being answered; each costs some kilobytes
READ_AHEAD = 16  # of them, before reading rests
MAX_DISCARDED_BYTES = 16 * 1024 * 1024
_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0) if hasattr(select, "poll") else 0


class Pipelining(UpgradesDeclined):
    """uvicorn's protocol, which sees that a client has left whatever waits behind its request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.answering: RequestResponseCycle | None = None  # the request whose answer is due now
        self._look_timer: asyncio.TimerHandle | None = None
        self.given_up = False  # what comes now is thrown away
        self._discarded = 0  # bytes

    def data_received(self, data: bytes) -> None:
        if not self.given_up:
            super().data_received(data)
            return
        self._discarded += len(data)
        if self._discarded > MAX_DISCARDED_BYTES:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        if self.given_up:
            return
        super().on_body(body)
        if self.pipeline and len(self.cycle.body) > HIGH_WATER_LIMIT:
            self._give_up()

    def _give_up(self) -> None:
        """Drop what waits behind the present answer; the connection closes with that."""
        if self.answering is None:
            return
        self.given_up = True
        self.pipeline.clear()
        self.cycle = self.answering
        self.cycle.keep_alive = False
        self.flow.resume_reading()

    def _throw_away(self) -> None:
        """Whatever comes now is no request any more. Those that arrived whole are answered."""
        self.given_up = True
        self.flow.resume_reading()

    def _forget_last(self) -> bool:
        """Forget the last request, whose body cannot be read. False: its answer has begun."""
        if self.pipeline:
            self.pipeline.popleft()
            if self.pipeline:
                self.cycle = self.pipeline[0][0]
            elif self.answering is not None:
                self.cycle = self.answering
            return True
        if self.cycle.response_started:
            return False
        self.cycle.disconnected = True  # its application is told, and may say nothing
        self.cycle.message_event.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_looking()
        if self.answering is not None and not self.answering.response_complete:
            self.answering.disconnected = True
            self.answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        if self.given_up:
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError  # in a callback: httptools stops, and uvicorn calls send_400_response
        super().on_headers_complete()
        if self.pipeline:
            self._look_later()
            if len(self.pipeline) <= READ_AHEAD:
                self.flow.resume_reading()  # uvicorn pauses at the first

    def on_response_complete(self) -> None:
        self._stop_looking()
        super().on_response_complete()
        if self.pipeline:
            self._look_later()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.answering = cycle
        super()._start_asgi_task(cycle, app)

    def _look_later(self) -> None:
        if self._look_timer is None:
            self._look_timer = self.loop.call_later(LOOK_EVERY_S, self._look)

    def _stop_looking(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None

    def _look(self) -> None:
        self._look_timer = None
        if self.transport.is_closing():
            return
        self._look_later()
        if self.flow.read_paused:
            seen = _seen_at(self.transport)
            if seen & _GONE:
                self.transport.abort()  # close() would wait for the reader
            elif seen:
                self._give_up()


def _seen_at(transport: asyncio.Transport) -> int:
    """What the socket says, as poll has it: whether the other side has closed, and whether there is more to read."""
    socket = transport.get_extra_info("socket")
    if socket is None or not _GONE or socket.fileno() < 0:
        return 0
    poll = select.poll()
    poll.register(socket.fileno(), _GONE | select.POLLIN)
    return sum(events for _, events in poll.poll(0))
