"""URLs and addresses: what a host means, and which addresses are public.

Knows the spellings of hosts and the special address ranges; opens no connection and resolves no name. A host
is accepted only if every parser reads it alike: browsers, libc and Python disagree about ``0x7f.1``, about
``a\\@b`` and about digits beyond ASCII, and a guard that reads a URL one way while the dialler reads it
another guards nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote

Address = IPv4Address | IPv6Address

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)"  # no userinfo, no percent, no backslash, ASCII only
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^\s\\#\x00-\x20\x7f]*)?"
    r"(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)  # WHATWG: such a last label means IPv4
_PORTS = {"http": 80, "https": 443}
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F))  # left as they are in a path and query

_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared, behind carriers; some clouds' metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's host agent, at an address that looks public
        "169.254.0.0/16",  # link-local, most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT relays
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_6 = IPv6Network("2000::/3")  # everything else is special: mapped, local, site-local, multicast …
_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: holds any IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # how an IPv6-only network spells the IPv4 internet


@dataclass(frozen=True)
class WebAddress:
    """A URL taken apart; its host is a lower-case name or an address."""

    scheme: str
    host: str | IPv4Address | IPv6Address
    port: int
    target: str  # path and query, ASCII

    @property
    def authority(self) -> str:
        """The Host header: the port only when it is not the scheme's own."""
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse_host_and_port(text: str) -> tuple[str | Address, int | None] | None:
    """A host as an owner lists it, with a port or without; None for all else.

    An IPv6 address may stand without its brackets where no port follows.
    """
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    match = _HOST_AND_PORT.fullmatch(text)
    host = None if match is None else parse_host(match["host"])
    if match is None or host is None:
        return None
    if match["port"] is None:
        return host, None
    port = int(match["port"])
    return (host, port) if 0 < port < 65536 else None


def parse_url(url: str) -> WebAddress | None:
    """The parts of an http or https URL; None if it is anything else or can be read in two ways."""
    match = _URL.fullmatch(url)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    host = parse_host(match["host"])
    port = int(match["port"] or _PORTS[scheme])
    if host is None or not 0 < port < 65536:
        return None
    target = match["target"] or "/"
    try:
        target = quote(target if target.startswith("/") else "/" + target, safe=_SAFE)
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return WebAddress(scheme, host, port, target)


def parse_host(text: str) -> str | Address | None:
    """A lower-case host name, or an address in its one canonical kind of spelling; None for all else."""
    text = text.lower()
    bracketed = text.startswith("[") and text.endswith("]")
    labels = text.split(".")
    if bracketed or _NUMERIC_LABEL.fullmatch(labels[-1]):
        try:
            address = ip_address(text[1:-1] if bracketed else text)
        except ValueError:
            return None
        return address if bracketed == isinstance(address, IPv6Address) else None
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return text


def embedded_ipv4(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6-only network's translator would dial for this one."""
    if isinstance(address, IPv6Address) and address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def is_public(address: Address) -> bool:
    """May anyone on the internet be at this address?

    Stricter than ``ipaddress.is_global``, which is true of multicast, and of IPv6 addresses that carry a
    private IPv4 address to a translator.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        inner = embedded_ipv4(address)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_6:
            return False
        return address.is_global and not any(address in network for network in _NOT_PUBLIC_6)
    return address.is_global and not any(address in network for network in _NOT_PUBLIC_4)
