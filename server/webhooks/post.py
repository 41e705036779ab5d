"""A checked URL, its addresses and a body → the status that the endpoint answers with.

Knows httpcore and TLS; knows neither settings nor which addresses may be dialled. Imported with the first delivery, as
``server.inputs.dial`` is with the first URL. No redirect is followed, and the answer's body is not read.
"""

from __future__ import annotations

import ssl

import httpcore

from server.inputs.addresses import Address, WebAddress
from server.inputs.dial import PinnedBackend, UnreachableError


async def post(
    where: WebAddress,
    addresses: list[Address],
    *,
    tls: ssl.SSLContext | None,
    headers: dict[str, str],
    body: bytes,
) -> int:
    """The status of one of the addresses. Raises UnreachableError; ValueError for a name beyond IDNA."""
    url = httpcore.URL(
        scheme=where.scheme.encode(),
        host=str(where.host).encode(),  # the name: for SNI and the certificate
        port=where.port,
        target=where.target.encode(),
    )
    sent: dict[bytes | str, bytes | str] = {
        "Host": where.authority,
        "User-Agent": "darkroom",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Accept": "*/*",
        "Connection": "close",
    }
    sent.update(headers.items())
    backend = PinnedBackend(addresses)
    try:
        async with (
            httpcore.AsyncConnectionPool(ssl_context=tls, http2=False, network_backend=backend) as pool,
            pool.stream("POST", url, headers=sent, content=body) as response,
        ):
            return response.status
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise UnreachableError from error
