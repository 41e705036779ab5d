"""URL → bytes, behind the guard.

Has exactly the addresses dialled that the guard has checked; knows nothing of pictures. No redirects, no proxies, no
cookies, no decompression; one deadline over all of it and one cap on the bytes. Every refusal reads the same: it must
not tell a client what exists behind the server.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Awaitable, Callable

from server.errors import BadImage
from server.inputs.addresses import Address, WebAddress, parse_url
from server.inputs.guard import Guard, HostRefused

Own = Callable[[str], Awaitable[bytes | None]]

_PUBLIC_PORTS = (80, 443)
_LONGEST = 8192  # characters of a URL: taking one of megabytes apart would hold everybody up


class Fetcher:
    """Fetches what image URLs point to, as far as the ``fetch`` setting allows.

    ``own`` is given every URL first; for one of our own signed picture URLs it returns the stored bytes.
    """

    def __init__(
        self, fetch: str, *, timeout_s: float, max_bytes: int, own: Own, tls: ssl.SSLContext | None = None
    ) -> None:
        self._guard = Guard(fetch, named="DARKROOM_FETCH (--fetch)", timeout_s=timeout_s, public_ports=_PUBLIC_PORTS)
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._own = own
        self._tls = tls  # None: the usual authorities, loaded with the first https URL

    def close(self) -> None:
        """Start no more look-ups. Waits for none."""
        self._guard.close()

    async def fetch(self, url: str, *, param: str, principal: str = "") -> bytes:
        """The bytes behind the URL. Raises BadImage when it may not or cannot be fetched, TooLarge.

        ``principal``: whose silent name servers keep nobody else's URLs from being fetched.
        """
        short = len(url) <= _LONGEST
        own = await self._own(url) if short else None
        if own is not None:
            return own
        if self._guard.off:
            raise BadImage(
                f"{param}: this server fetches no URLs. Send the picture as a data: URL or as base64.",
                param=param,
            )
        where = parse_url(url) if short else None
        if where is None or not self._guard.may_ask(where):
            raise self._refusal(param)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._get(where, await self._guard.resolve(where, principal), param)
        except _FAILURES:
            raise self._refusal(param) from None

    def _refusal(self, param: str) -> BadImage:
        public = "a public address of another machine, on port 80 or 443"
        which = public if self._guard.public else "a host and port that this server is set to fetch from"
        return BadImage(
            f"{param}: the picture could not be fetched. Its URL must be http or https, have at most {_LONGEST}"
            f" characters, be at {which}, and answer with status 200, without a redirect, within {self._timeout_s:g} s."
            " Or send the picture as a data: URL or as base64.",
            param=param,
        )

    async def _get(self, where: WebAddress, addresses: list[Address], param: str) -> bytes:
        await asyncio.to_thread(importlib.import_module, "server.inputs.dial")  # a fifth of a second, the first time
        from server.inputs import dial

        if where.scheme == "https" and self._tls is None:
            self._tls = await dial.usual_authorities()
        return await dial.get(where, addresses, tls=self._tls, max_bytes=self._max_bytes, param=param)


_FAILURES = (
    HostRefused,
    OSError,  # TimeoutError, ssl.SSLError and dial.UnreachableError among them
    ValueError,  # a host name that IDNA cannot encode
)
