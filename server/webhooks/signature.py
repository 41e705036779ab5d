"""Signatures of webhooks, as Standard Webhooks 1.0.0 has them (https://www.standardwebhooks.com).

Knows HMAC and three headers. The openai package's ``client.webhooks.unwrap`` verifies them, as do the libraries of
Standard Webhooks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac


def signed_headers(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt. ``message_id`` is the same for every attempt at one event, so that whoever gets it
    twice can tell; ``timestamp`` (unix seconds) is the attempt's."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{digest}",
    }
