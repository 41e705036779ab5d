"""The secrets that webhooks are signed with: one for each key, kept in the data folder.

Knows one small file for each key's id; knows nothing of HTTP. Unlike a key, a secret must be readable by the server,
which signs with it: the folder and the files are for their owner alone. A command makes them, and a running server
reads them at each delivery.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from pathlib import Path
from typing import Final

from server.storage import atomic

PREFIX: Final = "whsec_"
FOLDER: Final = "webhook_secrets"
_BYTES = 32
_PRINCIPAL = re.compile(r"[0-9a-z]{1,64}", re.ASCII)
_MAX_FILE_BYTES = 4096


class WebhookSecrets:
    """The secrets of one data folder, by the id of the key (``local`` where a server has no keys)."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER

    def make(self, principal: str) -> str:
        """A new secret in place of the one before, as it is shown: ``whsec_`` and base64. Raises OSError."""
        secret = PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic.write(self._path(principal), secret.encode())
        return secret

    def get(self, principal: str) -> bytes | None:
        """What is signed with; None where there is no secret, or none that can be read."""
        try:
            with self._path(principal).open("rb") as file:
                text = file.read(_MAX_FILE_BYTES).strip().decode("ascii")
            return base64.b64decode(text.removeprefix(PREFIX), validate=True) or None
        except (OSError, UnicodeDecodeError, binascii.Error):
            return None

    def forget(self, principal: str) -> None:
        """The key is revoked. Raises OSError."""
        self._path(principal).unlink(missing_ok=True)

    def _path(self, principal: str) -> Path:
        if not _PRINCIPAL.fullmatch(principal):
            raise ValueError("not the id of a key")
        return self._folder / principal
