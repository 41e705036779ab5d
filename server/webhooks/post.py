"""A checked URL, its addresses and a body → the status that the endpoint answers with.

Knows neither settings nor which addresses may be dialled. Imported with the first delivery, as ``server.inputs.dial``
is with the first URL. The answer's body is not read.
"""

from __future__ import annotations

import ssl

from server.inputs.addresses import Address, WebAddress
from server.inputs.dial import exchange


async def post(
    where: WebAddress,
    addresses: list[Address],
    *,
    tls: ssl.SSLContext | None,
    headers: dict[str, str],
    body: bytes,
) -> int:
    """The status of one of the addresses. Raises UnreachableError; ValueError for a name beyond IDNA."""
    sent = {"Content-Type": "application/json", "Accept": "*/*", **headers}
    async with exchange("POST", where, addresses, tls=tls, headers=sent, body=body) as response:
        return response.status
