"""Signed picture URLs: who holds the link may read the picture, until it expires.

Knows HMAC, names and unix time; knows nothing of stores or HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from pathlib import Path

from server.errors import ConfigError, LinkRefused
from server.storage import atomic

MIN_SECRET = 16  # bytes
_FOREVER = 2**53  # unix seconds; a larger expiry was never ours


class Signer:
    """Signs and verifies picture names with one secret."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET:
            raise ConfigError(f"the secret that signs picture URLs must have {MIN_SECRET} bytes or more")
        self._secret = secret

    def sign(self, name: str, expires: int) -> str:
        """The signature of a name that may be read before ``expires`` (unix seconds)."""
        message = f"darkroom-picture\n{expires}\n{name}".encode()
        return urlsafe_b64encode(hmac.digest(self._secret, message, hashlib.sha256)).rstrip(b"=").decode()

    def verify(self, name: str, expires: int, signature: str, now: float) -> None:
        """Raise LinkRefused unless the link is ours and ``now`` (unix seconds) is before its expiry."""
        genuine = 0 <= expires < _FOREVER and hmac.compare_digest(
            self.sign(name.encode("utf-8", "replace").decode(), expires).encode(),
            signature.encode("utf-8", "replace"),
        )
        if not genuine:
            raise LinkRefused("The picture's link has been altered: its signature does not match.")
        if now >= expires:
            raise LinkRefused("The picture's link has expired.")

    def url_path(self, name: str, expires: int) -> str:
        """Path and query of the signed link."""
        return f"/files/{name}?expires={expires}&signature={self.sign(name, expires)}"


def load_or_create_secret(path: Path) -> bytes:
    """The secret kept in the file, made once if there is none. Raises ConfigError.

    The file appears whole or not at all. Of two processes that start together, the second takes what the first made.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic.create(path, secrets.token_hex(32).encode())
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: the secret that signs picture URLs can be neither read nor made ({error.strerror});"
            " choose another DARKROOM_DATA_DIR or set DARKROOM_SIGNING_KEY"
        ) from error
    if len(secret) < MIN_SECRET:
        raise ConfigError(f"{path}: holds fewer than {MIN_SECRET} bytes; delete it and a new secret is made")
    return secret
