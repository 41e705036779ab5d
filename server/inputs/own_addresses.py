"""Own addresses: is something on this machine at an address?

Knows what the kernel says of an address; sends nothing. A public address of this machine leads to services that listen
on every interface and that a firewall keeps from the internet. Asked each time: interfaces come and go.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from server.inputs.addresses import Address, embedded_ipv4

_ELSEWHERE: dict[int, Address] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}  # of documentation
_PORT = 9  # any: a datagram socket that connects sends nothing


def is_own(address: Address) -> bool:
    """Does this machine itself answer at the address?"""
    inner = embedded_ipv4(address)
    return _has(address) or (inner is not None and _has(inner))


def _has(address: Address) -> bool:
    """Either packets to the address would come from it, or a socket can be bound to it.

    Neither is enough: a second address of an interface sends from the first, and hosts that share an address may be
    set to bind what they do not have.
    """
    if _source_to(address) == address:
        return True
    return _can_bind(address) and not _can_bind(_ELSEWHERE[address.version])


def _source_to(address: Address) -> Address | None:
    try:
        with _datagram(address) as asked:
            asked.connect((str(address), _PORT))
            return ip_address(asked.getsockname()[0])
    except OSError:  # no route, or no such address family here
        return None


def _can_bind(address: Address) -> bool:
    try:
        with _datagram(address) as asked:
            asked.bind((str(address), 0))
    except OSError as error:
        return error.errno == errno.EADDRINUSE  # out of ports, but ours
    return True


def _datagram(address: Address) -> socket.socket:
    return socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
