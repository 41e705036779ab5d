"""DNS rebinding: a server that has no keys obeys programs on this machine, but not the web pages they show.

Knows the Host and Origin headers; knows nothing of keys. A page that the user visits can send requests to
127.0.0.1, and by rebinding its own name to 127.0.0.1 (DNS rebinding) it can read the answers too. The first
shows in Origin, the second in Host, and no page can set either. Programs send no Origin. A page whose origin the owner
has listed (``cors_origins``) may do what programs may, under a name of this machine; the owner's rights it has not.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.types import Scope

from server.edge.cors import Origins
from server.edge.headers import values
from server.errors import BadRequest
from server.settings import Settings

_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII | re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REMEDY = "make a key with `darkroom keys create NAME` and send it, or set public_url"
_PAGE_REMEDY = "name their origin in cors_origins, make a key with `darkroom keys create NAME`, or set public_url"


class RebindingGuard:
    """The checks of Host and Origin on a server that has no keys."""

    def __init__(self, settings: Settings) -> None:
        self._guards_host = settings.on_loopback  # an open server elsewhere cannot know its names
        self._hosts = {"localhost", settings.host.strip("[]").lower()}
        self._listed = Origins(settings)
        self._public_origin: tuple[str, int] | None = None
        if settings.public_url is not None:
            self._public_origin = _origin(settings.public_url)
            if self._public_origin is not None:
                self._hosts.add(self._public_origin[0])

    def check(self, scope: Scope) -> None:
        """Raise BadRequest if a web page of somebody else's may be behind this request."""
        hosts = [value.decode("latin-1") for value in values(scope, b"host")]
        if self._guards_host and hosts and not (len(hosts) == 1 and self._is_ours(hosts[0])):
            raise BadRequest(
                f"This server has no keys, so it answers only under a name of this machine; {_REMEDY}.",
                code="host_refused",
            )
        # These change nothing, OPTIONS goes no further, and only pages of listed origins can read the answers.
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return
        for origin in values(scope, b"origin"):
            sent = origin.decode("latin-1")
            if not (self._is_same(sent, hosts) or self._listed.lists(sent)):
                raise BadRequest(
                    f"This server has no keys, so it refuses requests from other web pages; {_PAGE_REMEDY}.",
                    code="origin_refused",
                )

    def is_owner(self, scope: Scope) -> bool:
        """Does this request come from a program on this machine, or from the server's own page?"""
        hosts = [value.decode("latin-1") for value in values(scope, b"host")]
        return all(self._is_same(origin.decode("latin-1"), hosts) for origin in values(scope, b"origin"))

    def _is_ours(self, host_header: str) -> bool:
        match = _AUTHORITY.fullmatch(host_header)
        if match is None:
            return False
        name = match["host"].strip("[]").lower()
        return name in self._hosts or _is_loopback_address(name)

    def _is_same(self, origin: str, hosts: list[str]) -> bool:
        sent = _origin(origin)
        if sent is None:  # "null", or an app's own scheme
            return False
        scheme = origin.partition(":")[0].lower()
        here = [_origin(f"{scheme}://{host}") for host in hosts if _AUTHORITY.fullmatch(host)]
        return sent in here or sent == self._public_origin


def _origin(url: str) -> tuple[str, int] | None:
    """Host and port of an http(s) origin; the scheme is dropped, as a TLS proxy in front changes it."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.hostname.lower(), port) if parts.hostname else None


def _is_loopback_address(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
