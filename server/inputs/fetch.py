"""URL → bytes, behind the guard.

Knows which hosts the ``fetch`` setting allows and how to dial exactly the addresses it has checked; knows
nothing of pictures. The name is resolved once and every address must pass, so that a name that changes its
answer cannot send us elsewhere. No redirects, no proxies, no cookies, no decompression; one deadline over all
of it and one cap on the bytes. Every refusal reads the same: it must not tell a client what exists behind
the server.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import httpcore
import httpx

from server.errors import BadImage, ConfigError, TooLarge
from server.inputs.addresses import Address, WebAddress, is_public, parse_host, parse_url

Own = Callable[[str], Awaitable[bytes | None]]

_TRY_S = 2.0  # seconds for one address before the next is tried
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
        if where.scheme == "https" and self._tls is None:
            # SSL_CERT_FILE and SSL_CERT_DIR are heeded, for a private authority
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        url = httpcore.URL(
            scheme=where.scheme.encode(),
            host=str(where.host).encode(),  # the name: for SNI and the certificate
            port=where.port,
            target=where.target.encode(),
        )
        headers: dict[bytes | str, bytes | str] = {
            "Host": where.authority,
            "User-Agent": "darkroom",
            "Accept": "image/png, image/jpeg, image/webp, */*;q=0.1",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._tls, http2=False, network_backend=_PinnedBackend(addresses)
            ) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            return await self._read(response, param)

    async def _read(self, response: httpcore.Response, param: str) -> bytes:
        sent = {name.lower(): value for name, value in response.headers}
        if response.status != 200 or sent.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _RefusedError
        too_large = TooLarge(f"{param}: a picture may have at most {self._max_bytes} bytes.", param=param)
        length = sent.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self._max_bytes:
            raise too_large
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise too_large
        return bytes(body)


class _RefusedError(Exception):
    """The guard or the peer said no. Why is nobody's business."""


_FAILURES = (
    _RefusedError,
    OSError,  # TimeoutError and ssl.SSLError among them
    ValueError,  # a host name that IDNA cannot encode
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
)


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that were checked, whatever the URL's name resolves to by now."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        self._dialler = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        *others, last = self._addresses
        for address in others:
            try:
                return await self._dialler.connect_tcp(str(address), port, timeout=_TRY_S)
            except (httpcore.NetworkError, httpcore.TimeoutException):
                continue  # an address family without a route, most often
        return await self._dialler.connect_tcp(str(last), port)


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
