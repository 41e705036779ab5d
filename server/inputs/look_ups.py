"""Look-ups: host names → addresses, while name servers keep silent.

Knows principals, threads and time; knows nothing of which names or addresses are allowed. A look-up cannot be ended, so
each has a thread of its own, which is left behind when it takes too long: its place is free again, for the same
principal and for all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from ipaddress import ip_address

from server.inputs.addresses import Address
from server.inputs.turns import FairTurns

MAX_LOOK_UPS = 64  # at a time
MAX_LOOK_UPS_PER_PRINCIPAL = 8  # at a time
MAX_THREADS_PER_PRINCIPAL = 32  # those left behind included

_TOO_LATE = 0.9  # of the time for a fetch: a look-up that would begin later is not begun


class LookUps:
    """Look-ups of all principals. Each may take ``timeout_s``, its waiting for a turn included."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._turns = FairTurns(MAX_LOOK_UPS, per_principal=MAX_LOOK_UPS_PER_PRINCIPAL)
        self._threads: Counter[str] = Counter()
        self._closed = False

    def close(self) -> None:
        """Start no more look-ups. Waits for none."""
        self._closed = True

    async def addresses(self, host: str, port: int, *, principal: str) -> list[Address]:
        """The addresses of a host. Raises OSError, TimeoutError among them; ValueError for a name beyond IDNA."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.timeout(self._timeout_s), self._turns.turn(principal):
            if loop.time() - started > _TOO_LATE * self._timeout_s:
                raise TimeoutError  # the places of a whole crowd come free just when its last members give up, too
            return await self._look_up(host, port, principal)

    async def _look_up(self, host: str, port: int, principal: str) -> list[Address]:
        if self._closed or self._threads[principal] >= MAX_THREADS_PER_PRINCIPAL:
            raise TimeoutError
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Address]] = loop.create_future()

        def ended(answer: list[Address] | Exception) -> None:
            self._threads[principal] -= 1
            if not self._threads[principal]:
                del self._threads[principal]
            if found.done():
                return  # given up
            if isinstance(answer, Exception):
                found.set_exception(answer)
            else:
                found.set_result(answer)

        def ask() -> None:
            answer = _ask(host, port)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(ended, answer)

        # A daemon: a name server that keeps silent must not keep the server from ending either.
        threading.Thread(target=ask, name="look-up", daemon=True).start()
        self._threads[principal] += 1
        return await found


def _ask(host: str, port: int) -> list[Address] | Exception:
    try:
        items = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(ip_address(item[4][0]) for item in items))
    except (OSError, ValueError) as error:
        return error
