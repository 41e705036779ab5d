"""The worker's end of the socket to the front.

Knows messages and the order they are sent in; knows nothing of drawing.
"""

from __future__ import annotations

import queue
import socket
import threading

from server.worker import protocol


class Link:
    """The socket to the front. Sending never waits for the reader: a thread of its own writes what is queued."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._outbox: queue.SimpleQueue[protocol.ToFront | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="link", daemon=True)
        self._writer.start()

    def send(self, message: protocol.ToFront) -> None:
        """Queue a message, from any thread."""
        self._outbox.put(message)

    def receive(self) -> protocol.ToWorker | None:
        """The next message; None when the front is gone."""
        try:
            body = protocol.receive(self._socket)
        except OSError:
            return None
        return None if body is None else protocol.unpack_to_worker(body)

    def close(self) -> None:
        """Write what is still queued."""
        self._outbox.put(None)
        self._writer.join()

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._socket.sendall(protocol.pack(message))
            except OSError:
                return  # the front is gone; the reading thread ends the process
