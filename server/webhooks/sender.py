"""The sender: which URLs a webhook may have, and one attempt at sending one.

Knows the ``webhooks`` setting and the guard, by the rules of fetched URLs; knows neither jobs nor when to try again.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
import time
from typing import Final

from server.errors import BadRequest
from server.inputs.addresses import WebAddress, parse_url
from server.inputs.guard import Guard, HostRefused
from server.webhooks.signature import signed_headers

MAX_URL: Final = 2048  # characters
PARAM: Final = "webhook"
SETTING: Final = "DARKROOM_WEBHOOKS (--webhooks)"
_PUBLIC_PORTS = (443,)
_FAILURES = (
    HostRefused,
    OSError,  # TimeoutError, ssl.SSLError and dial.UnreachableError among them
    ValueError,  # a host name that IDNA cannot encode
)


class WebhookSender:
    """Sends as far as the setting allows: ``off``, ``public``, or hosts as ``fetch`` has them."""

    def __init__(self, setting: str, *, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        """Raises ConfigError."""
        self._guard = Guard(setting, named=SETTING, timeout_s=timeout_s, public_ports=_PUBLIC_PORTS)
        self._timeout_s = timeout_s
        self._tls = tls  # None: the usual authorities, loaded with the first https URL

    def close(self) -> None:
        """Start no more look-ups. Waits for none."""
        self._guard.close()

    async def check(self, url: str, *, principal: str) -> str:
        """The host and port of a URL that may be told. Raises BadRequest, which says the same whatever is there."""
        if self._guard.off:
            raise BadRequest(
                f"webhook: this server sends none, as its setting {SETTING} is off. Ask for the job instead: GET"
                " /v1/images/jobs/ID.",
                param=PARAM,
            )
        where = self._parsed(url)
        if where is None:
            raise self._refusal()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._guard.resolve(where, principal)
        except _FAILURES:
            raise self._refusal() from None
        return f"{where.host}:{where.port}"

    async def send(self, url: str, *, principal: str, secret: bytes, message_id: str, body: bytes) -> int | None:
        """The status of the answer; None where there was none in time, or the URL may not be asked any more."""
        where = self._parsed(url)
        if where is None:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self._guard.resolve(where, principal)
                # A fifth of a second, the first time.
                await asyncio.to_thread(importlib.import_module, "server.webhooks.post")
                from server.inputs import dial
                from server.webhooks import post

                if where.scheme == "https" and self._tls is None:
                    self._tls = await dial.usual_authorities()
                headers = signed_headers(secret, message_id, int(time.time()), body)
                return await post.post(where, addresses, tls=self._tls, headers=headers, body=body)
        except _FAILURES:
            return None

    def _parsed(self, url: str) -> WebAddress | None:
        """The URL taken apart; None for one that may not be asked."""
        where = parse_url(url) if len(url) <= MAX_URL and not self._guard.off else None
        if where is None or not self._guard.may_ask(where):
            return None
        return None if self._guard.public and where.scheme != "https" else where

    def _refusal(self) -> BadRequest:
        if self._guard.public:
            needed = "https, on port 443 of a public address of another machine"
        else:
            needed = f"http or https, at a host and port that {SETTING} names"
        return BadRequest(
            f"webhook: this URL cannot be told. It must be {needed}, be found by its name, and have at most {MAX_URL}"
            " characters.",
            param=PARAM,
        )
