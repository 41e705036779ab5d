"""URL → bytes, behind the guard.

Knows which hosts the ``fetch`` setting allows, and has exactly the addresses dialled that it has checked; knows
nothing of pictures. The name is resolved once and every address must pass, so that a name that changes its
answer cannot send us elsewhere. No redirects, no proxies, no cookies, no decompression; one deadline over all
of it and one cap on the bytes. Every refusal reads the same: it must not tell a client what exists behind
the server.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

from server.errors import BadImage, ConfigError
from server.inputs.addresses import Address, WebAddress, is_public, parse_host, parse_url

Own = Callable[[str], Awaitable[bytes | None]]

_LOOK_UPS = 8  # names looked up at a time
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
        self._hosts = None if self._off or public else _read_hosts(fetch)
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._own = own
        self._tls = tls  # None: the usual authorities, loaded with the first https URL
        # A look-up cannot be ended, and a silent name server keeps one for long: on shared threads, many would keep
        # pictures from being stored and read.
        self._look_ups = ThreadPoolExecutor(_LOOK_UPS, thread_name_prefix="look-up")

    def close(self) -> None:
        """Start no more look-ups. Waits for none."""
        self._look_ups.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str, *, param: str) -> bytes:
        """The bytes behind the URL. Raises BadImage when it may not or cannot be fetched, TooLarge."""
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
                return await self._get(where, await self._resolve(where), param)
        except _FAILURES:
            raise self._refusal(param) from None

    def _refusal(self, param: str) -> BadImage:
        which = "a public address" if self._hosts is None else "a host that this server is set to fetch from"
        return BadImage(
            f"{param}: the picture could not be fetched. Its URL must be http or https, have at most {_LONGEST}"
            f" characters, be at {which}, and answer with status 200, without a redirect, within {self._timeout_s:g} s."
            " Or send the picture as a data: URL or as base64.",
            param=param,
        )

    def _may_ask(self, where: WebAddress) -> bool:
        return self._hosts is None or where.host in self._hosts

    async def _resolve(self, where: WebAddress) -> list[Address]:
        """Every address of the host, each of them acceptable."""
        if isinstance(where.host, str):
            look_up = functools.partial(socket.getaddrinfo, where.host, where.port, type=socket.SOCK_STREAM)
            found = await asyncio.get_running_loop().run_in_executor(self._look_ups, look_up)
            addresses = list(dict.fromkeys(ip_address(item[4][0]) for item in found))
        else:
            addresses = [where.host]
        if not addresses or (self._hosts is None and not all(map(is_public, addresses))):
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


def _read_hosts(setting: str) -> frozenset[str | Address]:
    hosts: set[str | Address] = set()
    for entry in setting.split(","):
        text = entry.strip()
        # an IPv6 address may stand in a setting without its brackets
        host = parse_host(f"[{text}]" if ":" in text and not text.startswith("[") else text)
        if host is None:
            raise ConfigError(
                f"DARKROOM_FETCH (--fetch) = {setting!r}: {text!r} is neither a host name nor an address;"
                " write it without scheme, port or path"
            )
        hosts.add(host)
    return frozenset(hosts)
