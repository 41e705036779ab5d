"""The guard: which hosts a setting lets the server ask, and the checked addresses of one.

Knows settings of hosts and name servers; opens no connection. A name is resolved once and every address must pass, and
whoever dials gets those addresses and no name: one that changes its answer cannot send us elsewhere. A public address
of this machine does not pass. A listed host may be anywhere.
"""

from __future__ import annotations

from collections.abc import Collection

from server.errors import ConfigError
from server.inputs.addresses import Address, WebAddress, is_public, parse_host_and_port
from server.inputs.look_ups import LookUps
from server.inputs.own_addresses import is_own


class HostRefused(Exception):
    """The guard said no. Why is nobody's business."""


class Guard:
    """What one setting allows: ``off``, ``public``, or hosts (name, address, host:port), comma-separated."""

    def __init__(self, setting: str, *, named: str, timeout_s: float, public_ports: Collection[int]) -> None:
        """``named``: the setting, for messages. ``public_ports``: which may be asked of public addresses, as what else
        listens there is rarely meant for the public. Raises ConfigError."""
        word = setting.strip().lower()
        self.off = word == "off"
        self.public = word == "public"
        self._listed = frozenset() if self.off or self.public else _read_hosts(setting, named)
        self._ports = frozenset(public_ports)
        self._look_ups = LookUps(timeout_s)

    def close(self) -> None:
        """Start no more look-ups. Waits for none."""
        self._look_ups.close()

    def may_ask(self, where: WebAddress) -> bool:
        """Is it a host and a port that the setting allows, as far as that can be told without resolving the name?"""
        if self.public:
            return where.port in self._ports
        return not self._listed.isdisjoint({(where.host, None), (where.host, where.port)})

    async def resolve(self, where: WebAddress, principal: str) -> list[Address]:
        """Every address of the host, each of them acceptable. Raises HostRefused, OSError; ValueError for a name beyond
        IDNA.

        ``principal``: whose silent name servers keep nobody else's names from being resolved.
        """
        if isinstance(where.host, str):
            addresses = await self._look_ups.addresses(where.host, where.port, principal=principal)
        else:
            addresses = [where.host]
        if not addresses or (self.public and not all(map(is_elsewhere, addresses))):
            raise HostRefused
        return addresses


def is_elsewhere(address: Address) -> bool:
    """Is it on the internet, and not this machine, which may have a public address too?"""
    return is_public(address) and not is_own(address)


def _read_hosts(setting: str, named: str) -> frozenset[tuple[str | Address, int | None]]:
    """The listed hosts, each with its port, or None for any."""
    hosts: set[tuple[str | Address, int | None]] = set()
    for entry in setting.split(","):
        host = parse_host_and_port(entry.strip())
        if host is None:
            raise ConfigError(
                f"{named} = {setting!r}: {entry.strip()!r} is neither a host name nor an address;"
                " write it without scheme or path, and with a port only if no other may be asked: minio:9000"
            )
        hosts.add(host)
    return frozenset(hosts)
