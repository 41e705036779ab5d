"""Bytes → answers: HTTP as it must never be sent, and answers read as strictly as h11 reads them.

Knows connections and answers; knows nothing of routes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import h11

_CHUNK = 1 << 16
_PATIENCE_S = 0.05  # for an answer to a request that may never be whole
_RESET = struct.pack("ii", 1, 0)  # closes at once: tens of thousands of connections would use up the ports


@dataclass
class Answer:
    """One answer; ``broken`` says what made it none."""

    method: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    broken: str = ""


@dataclass
class Exchange:
    """What came of some bytes."""

    answers: list[Answer]
    hung: bool = False  # neither answered nor closed in time


class Connection:
    """Sends bytes and reads answers; keeps its socket as long as the server does."""

    def __init__(self, address: tuple[str, int], *, timeout_s: float = 20.0) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._socket: socket.socket | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(self, payload: bytes, methods: Sequence[str], *, whole: bool) -> Exchange:
        """One answer for each method. ``whole`` is False where the bytes may be less than a request, or none: then the
        sending side is closed after a moment, and what comes until the server closes is read."""
        if self._socket is None or not whole:
            self.close()
            self._socket = socket.create_connection(self._address, timeout=self._timeout_s)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        with contextlib.suppress(OSError):  # refused before the last byte: the answer is there already
            self._socket.sendall(payload)
        answers: list[Answer] = []
        rest = b""
        hung = False
        for method in methods:
            answer, rest, hung = self._read(method, rest, patient=whole)
            if answer is None:
                break
            answer.seconds = time.perf_counter() - started
            answers.append(answer)
            if self._socket is None:
                break
        if not whole:
            self.close()
        return Exchange(answers, hung)

    def _read(self, method: str, rest: bytes, *, patient: bool) -> tuple[Answer | None, bytes, bool]:
        """One answer, what came behind it, and whether the time ran out. No answer: the server closed without one."""
        assert self._socket is not None
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        reader.send(h11.EndOfMessage())
        answer = Answer(method)
        ended = leaving = False
        if rest:
            reader.receive_data(rest)
        self._socket.settimeout(self._timeout_s if patient else _PATIENCE_S)
        while True:
            try:
                event = reader.next_event()
            except h11.RemoteProtocolError as error:
                self.close()
                # Whoever closes the sending side is taken for gone, and a stream to them is cut: that is no answer.
                if ended and (leaving or not answer.status):
                    return None, b"", False
                answer.broken = f"not HTTP: {error}"
                return answer, b"", False
            if isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                answer.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                self.close()
                return None, b"", False
            elif event is h11.NEED_DATA:
                try:
                    data = self._socket.recv(_CHUNK)
                except TimeoutError:
                    if patient:
                        self.close()
                        return None, b"", True
                    patient = True
                    self._socket.settimeout(self._timeout_s)
                    try:
                        self._socket.shutdown(socket.SHUT_WR)
                        leaving = True
                        continue
                    except OSError:
                        data = b""
                except OSError:
                    data = b""
                ended = not data
                reader.receive_data(data)
        behind = bytes(reader.trailing_data[0])
        if reader.their_state is h11.MUST_CLOSE or ended:
            self.close()
        return answer, behind, False
