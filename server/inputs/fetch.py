"""URL → bytes, behind the guard.

Knows which hosts the ``fetch`` setting allows, and has exactly the addresses dialled that it has checked; knows
nothing of pictures. The name is resolved once and every address must pass, so that a name that changes its
answer cannot send us elsewhere. A public address of this machine does not pass. No redirects, no proxies, no
cookies, no decompression; one deadline over all of it and one cap on the bytes. Every refusal reads the same: it
must not tell a client what exists behind the server.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Awaitable, Callable

from server.errors import BadImage, ConfigError
from server.inputs.addresses import Address, WebAddress, is_public, parse_host_and_port, parse_url
from server.inputs.look_ups import LookUps
from server.inputs.own_addresses import is_own

Own = Callable[[str], Awaitable[bytes | None]]

_PUBLIC_PORTS = {80, 443}  # what else listens at a public address is rarely meant for the public
_LONGEST = 8192  # characters of a URL: taking one of megabytes apart would hold everybody up


class Fetcher:
    """Fetches what image URLs point to, as far as the ``fetch`` setting allows.

    ``own`` is given every URL first; for one of our own signed picture URLs it returns the stored bytes.
    """

    def __init__(
        self, fetch: str, *, timeout_s: float, max_bytes: int, own: Own, tls: ssl.SSLContext | None = None
    ) -> None:
        self._off = fetch.strip().lower() == "off"
        public = fetch.strip().lower() == "public"
        self._listed = None if self._off or public else _read_hosts(fetch)
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._own = own
        self._tls = tls  # None: the usual authorities, loaded with the first https URL
        self._look_ups = LookUps(timeout_s)

    def close(self) -> None:
        """Start no more look-ups. Waits for none."""
        self._look_ups.close()

    async def fetch(self, url: str, *, param: str, principal: str = "") -> bytes:
        """The bytes behind the URL. Raises BadImage when it may not or cannot be fetched, TooLarge.

        ``principal``: whose silent name servers keep nobody else's URLs from being fetched.
        """
        short = len(url) <= _LONGEST
        own = await self._own(url) if short else None
        if own is not None:
            return own
        if self._off:
            raise BadImage(
                f"{param}: this server fetches no URLs. Send the picture as a data: URL or as base64.",
                param=param,
            )
        where = parse_url(url) if short else None
        if where is None or not self._may_ask(where):
            raise self._refusal(param)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._get(where, await self._resolve(where, principal), param)
        except _FAILURES:
            raise self._refusal(param) from None

    def _refusal(self, param: str) -> BadImage:
        public = "a public address of another machine, on port 80 or 443"
        which = public if self._listed is None else "a host and port that this server is set to fetch from"
        return BadImage(
            f"{param}: the picture could not be fetched. Its URL must be http or https, have at most {_LONGEST}"
            f" characters, be at {which}, and answer with status 200, without a redirect, within {self._timeout_s:g} s."
            " Or send the picture as a data: URL or as base64.",
            param=param,
        )

    def _may_ask(self, where: WebAddress) -> bool:
        if self._listed is None:
            return where.port in _PUBLIC_PORTS
        return not self._listed.isdisjoint({(where.host, None), (where.host, where.port)})

    async def _resolve(self, where: WebAddress, principal: str) -> list[Address]:
        """Every address of the host, each of them acceptable."""
        if isinstance(where.host, str):
            addresses = await self._look_ups.addresses(where.host, where.port, principal=principal)
        else:
            addresses = [where.host]
        if not addresses or (self._listed is None and not all(map(_is_elsewhere, addresses))):
            raise _RefusedError
        return addresses

    async def _get(self, where: WebAddress, addresses: list[Address], param: str) -> bytes:
        await asyncio.to_thread(importlib.import_module, "server.inputs.dial")  # a fifth of a second, the first time
        from server.inputs import dial

        if where.scheme == "https" and self._tls is None:
            self._tls = await dial.usual_authorities()
        return await dial.get(where, addresses, tls=self._tls, max_bytes=self._max_bytes, param=param)


class _RefusedError(Exception):
    """The guard said no. Why is nobody's business."""


_FAILURES = (
    _RefusedError,
    OSError,  # TimeoutError, ssl.SSLError and dial.UnreachableError among them
    ValueError,  # a host name that IDNA cannot encode
)


def _is_elsewhere(address: Address) -> bool:
    """Is it on the internet, and not this machine, which may have a public address too?"""
    return is_public(address) and not is_own(address)


def _read_hosts(setting: str) -> frozenset[tuple[str | Address, int | None]]:
    """The listed hosts, each with its port, or None for any."""
    hosts: set[tuple[str | Address, int | None]] = set()
    for entry in setting.split(","):
        host = parse_host_and_port(entry.strip())
        if host is None:
            raise ConfigError(
                f"DARKROOM_FETCH (--fetch) = {setting!r}: {entry.strip()!r} is neither a host name nor an address;"
                " write it without scheme or path, and with a port only if no other may be asked: minio:9000"
            )
        hosts.add(host)
    return frozenset(hosts)
