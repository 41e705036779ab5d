"""A checked URL and its addresses → bytes, over HTTP.

Knows httpcore and TLS; knows neither settings nor which addresses may be dialled. Imported with the first URL that is
fetched, not before: httpcore and what comes with it are a fifth of the front's work at start-up, and a server may
never need them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable

import httpcore
import httpx

from server.errors import TooLarge
from server.inputs.addresses import Address, WebAddress

_TRY_S = 2.0  # seconds for one address before the next is tried


class UnreachableError(OSError):
    """The peer cannot be reached, or gave no picture. Why is nobody's business."""


async def usual_authorities() -> ssl.SSLContext:
    """SSL_CERT_FILE and SSL_CERT_DIR are heeded, for a private authority."""
    return await asyncio.to_thread(httpx.create_ssl_context)


async def get(
    where: WebAddress, addresses: list[Address], *, tls: ssl.SSLContext | None, max_bytes: int, param: str
) -> bytes:
    """What one of the addresses answers with. Raises UnreachableError, TooLarge; ValueError for a name beyond IDNA."""
    headers = {"Accept": "image/png, image/jpeg, image/webp, */*;q=0.1", "Accept-Encoding": "identity"}
    async with exchange("GET", where, addresses, tls=tls, headers=headers) as response:
        return await _read(response, max_bytes, param)


@contextlib.asynccontextmanager
async def exchange(
    method: str,
    where: WebAddress,
    addresses: list[Address],
    *,
    tls: ssl.SSLContext | None,
    headers: dict[str, str],
    body: bytes | None = None,
) -> AsyncIterator[httpcore.Response]:
    """One request to one of the addresses, and the head of its answer; no redirect is followed. Raises
    UnreachableError, also for what goes wrong while the answer is read; ValueError for a name beyond IDNA."""
    url = httpcore.URL(
        scheme=where.scheme.encode(),
        host=str(where.host).encode(),  # the name: for SNI and the certificate
        port=where.port,
        target=where.target.encode(),
    )
    sent: dict[bytes | str, bytes | str] = {"Host": where.authority, "User-Agent": "darkroom"}
    if body is not None:
        sent["Content-Length"] = str(len(body))
    sent.update(headers.items())
    sent["Connection"] = "close"
    try:
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=tls, http2=False, network_backend=PinnedBackend(addresses)
            ) as pool,
            pool.stream(method, url, headers=sent, content=body) as response,
        ):
            yield response
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise UnreachableError from error


async def _read(response: httpcore.Response, max_bytes: int, param: str) -> bytes:
    sent = {name.lower(): value for name, value in response.headers}
    if response.status != 200 or sent.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnreachableError
    too_large = TooLarge(f"{param}: a picture may have at most {max_bytes} bytes.", param=param)
    length = sent.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


class PinnedBackend(httpcore.AsyncNetworkBackend):
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
