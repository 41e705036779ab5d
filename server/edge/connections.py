"""The connections of one server: how many there are, whose they are, and which must go when there is no room.

Knows counts, addresses and time; knows nothing of sockets or requests. Every connection costs a descriptor, and a
server without descriptors answers nobody. So connections are bounded below them. At the bound the oldest connection
that waits for a head goes, of the address that has most connections: first those that have not sent a whole one for
``FRESH_S``, then those kept alive between two requests and those that have only just come, whose head may be on its
way. No address loses one to an address that has more connections.

Where none waits for a head, a connection that waits for its client otherwise, with half a body or an answer that is not
taken, gives way to an address that has fewer. One whose request is whole and not answered yet stays. Where all are
such, ``SPARE`` more are let in, and serve only what asks for the server's health or sends a key.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from server.errors import ConfigError
from server.settings import Settings

if sys.platform != "win32":
    import resource

RESERVED_DESCRIPTORS = 256  # files, the worker's pipes, look-ups, SPARE, and what is accepted while others close
MAX_DESCRIPTORS = 16_384  # raised to, unless more connections are asked for: each costs some kilobytes too
SPARE = 32
FRESH_S = 1.0  # a head comes with its connection, or a round trip later
MAX_LOOKED_AT = 16  # addresses, for one that has to give way
LOG_EVERY_S = 10.0

log = logging.getLogger("darkroom.edge")


class Connection(Protocol):
    """What is asked of a connection."""

    address: str

    def give_way(self) -> None:
        """Close at once; there is nothing to answer, or nobody who takes it."""


class _Waiting:
    """Connections that wait for the same thing, the oldest of each address first."""

    def __init__(self) -> None:
        # Dictionaries keep their order.
        self._by_address: dict[str, dict[Connection, float]] = {}  # with the time since when (monotonic)
        self._by_size: dict[int, dict[str, None]] = {}  # addresses, by how many they have here

    def add(self, connection: Connection) -> None:
        line = self._by_address.setdefault(connection.address, {})
        if connection not in line:
            line[connection] = time.monotonic()
            self._resized(connection.address, len(line) - 1, len(line))

    def discard(self, connection: Connection) -> None:
        line = self._by_address.get(connection.address, {})
        if connection in line:
            del line[connection]
            self._resized(connection.address, len(line) + 1, len(line))
            if not line:
                del self._by_address[connection.address]

    def oldest_of(self, address: str) -> Connection | None:
        return next(iter(self._by_address.get(address, {})), None)

    def since(self, connection: Connection) -> float:
        return self._by_address[connection.address][connection]

    def oldest(self) -> Iterator[Connection]:
        """The oldest one of each address, those first that have most of them."""
        for size in sorted(self._by_size, reverse=True):
            for address in self._by_size[size]:
                yield next(iter(self._by_address[address]))

    def _resized(self, address: str, old: int, new: int) -> None:
        if old:
            del self._by_size[old][address]
            if not self._by_size[old]:
                del self._by_size[old]
        if new:
            self._by_size.setdefault(new, {})[address] = None


class Connections:
    """At most ``limit`` connections, and ``per_address`` from one address (0: no such limit)."""

    def __init__(self, limit: int, *, per_address: int = 0, count: Callable[[str], None] | None = None) -> None:
        self.limit = limit
        self.per_address = per_address
        self._count = count or (lambda what: None)
        self._all: set[Connection] = set()
        self._spare: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._silent = _Waiting()  # have never sent a whole head
        self._idle = _Waiting()  # between two requests
        self._slow = _Waiting()  # in a body, or in an answer that is not taken
        self._closed = 0  # since the last record
        self._logged_s = -LOG_EVERY_S

    def __len__(self) -> int:
        return len(self._all)

    def is_spare(self, connection: Connection) -> bool:
        """Was it let in beyond the limit, and is it still beyond? Then it serves only health and keys."""
        return connection in self._spare and len(self._all) > self.limit

    def enter(self, connection: Connection) -> bool:
        """Count a new connection. False: there is no room for it, and nobody who could give way."""
        address = connection.address
        full = self.per_address and self._by_address[address] >= self.per_address
        if full and not self._make_room_of(address):
            return self._refused("address")
        if len(self._all) >= self.limit and not self._make_room_for(address):
            if len(self._all) >= self.limit + SPARE:
                return self._refused("all")
            self._spare.add(connection)
            self._tell()
        self._all.add(connection)
        self._by_address[address] += 1
        self._silent.add(connection)
        return True

    def asked(self, connection: Connection) -> None:
        """A whole head has arrived. What is left to come is a body."""
        self._silent.discard(connection)
        self._idle.discard(connection)
        self.slow(connection)

    def slow(self, connection: Connection) -> None:
        """The client is to go on: with its body, or by taking its answer."""
        if connection in self._all:
            self._slow.add(connection)

    def at_work(self, connection: Connection) -> None:
        """The server is to go on: the connection stays until it has been answered."""
        self._slow.discard(connection)

    def answered(self, connection: Connection) -> None:
        """Nothing is being answered: the connection waits for its next request."""
        self._slow.discard(connection)
        if connection in self._all:
            self._idle.add(connection)

    def leave(self, connection: Connection) -> None:
        if connection in self._all:
            self._all.discard(connection)
            self._spare.discard(connection)
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]
        for waiting in (self._silent, self._idle, self._slow):
            waiting.discard(connection)

    def _make_room_of(self, address: str) -> bool:
        """Close the oldest of an address that waits for a head."""
        return self._close(self._silent.oldest_of(address) or self._idle.oldest_of(address))

    def _make_room_for(self, address: str) -> bool:
        """Close one that waits for its client, of whoever has most, but of nobody who has fewer than this one."""
        mine = self._by_address[address]
        silent, idle = self._candidates(self._silent, address, mine), self._candidates(self._idle, address, mine)
        late = time.monotonic() - FRESH_S
        for candidates in (
            [one for one in silent if self._silent.since(one) <= late],
            silent + idle,
            self._candidates(self._slow, address, mine + 2),
        ):
            if candidates:
                return self._close(
                    max(candidates, key=lambda one: (self._by_address[one.address], one.address != address))
                )
        return False

    def _candidates(self, waiting: _Waiting, address: str, least: int) -> list[Connection]:
        """The oldest that wait, of addresses that have ``least`` connections in all."""
        first = list(itertools.islice(waiting.oldest(), MAX_LOOKED_AT))  # at the limit, for each new connection
        if (own := waiting.oldest_of(address)) is not None:
            first.append(own)
        return [one for one in first if self._by_address[one.address] >= least]

    def _close(self, connection: Connection | None) -> bool:
        if connection is None:
            return False
        self.leave(connection)
        self._count("gave_way")
        self._tell()
        connection.give_way()
        return True

    def _refused(self, limit: str) -> bool:
        self._count(f"refused_{limit}")
        self._tell()
        return False

    def _tell(self) -> None:
        """One record for all that were closed within LOG_EVERY_S."""
        self._closed += 1
        now = time.monotonic()
        if now - self._logged_s >= LOG_EVERY_S:
            limits = {"connections": len(self._all), "max_connections": self.limit, "closed": self._closed}
            if self.per_address:
                limits["max_connections_per_address"] = self.per_address
            log.warning("connections closed at their limit", extra=limits)
            self._logged_s, self._closed = now, 0


def address_of(peer: object) -> str:
    """Whose connection it is, from a socket's peer name. IPv6 by its first 64 bits: a host has all that follow."""
    host = peer[0] if isinstance(peer, tuple) and peer and isinstance(peer[0], str) else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def raise_descriptors(settings: Settings) -> None:
    """Raise this process's soft limit of descriptors, as far as is useful and allowed."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(MAX_DESCRIPTORS, (settings.max_connections or 0) + RESERVED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower bound of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def descriptors() -> int:
    """How many descriptors this process may have, and is counted on to have."""
    if sys.platform == "win32":
        return MAX_DESCRIPTORS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 + RESERVED_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def max_connections(settings: Settings) -> int:
    """The limit that holds. Raises ConfigError for a setting beyond what the descriptors allow."""
    allowed = descriptors()
    room = max(allowed - RESERVED_DESCRIPTORS, allowed // 2)
    chosen = settings.max_connections
    if chosen is None:
        return min(room, MAX_DESCRIPTORS)
    if chosen > room:
        raise ConfigError(
            f"DARKROOM_MAX_CONNECTIONS (--max-connections) = {chosen}: this process may have {allowed} descriptors,"
            f" of which {room} can be connections; raise the limit (ulimit -n, LimitNOFILE) or lower the setting"
        )
    return chosen
