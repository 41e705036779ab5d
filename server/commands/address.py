"""The server that a command asks, and the key it shows there.

Knows flags, variables of the environment and files that hold a key; sends nothing.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import ConfigError

_MAX_PORT = 65535  # of a larger one, name look-ups raise what no client of HTTP catches


@dataclass(frozen=True)
class Address:
    """A server and the right to use it. ``chosen``: somebody named it; else it is this machine's port."""

    url: str
    key: str | None
    chosen: bool
    own_certificate: Path | None = None  # of this machine's server, where the settings name one

    @property
    def shown(self) -> str:
        """The URL for messages: without a password."""
        return re.sub(r"//[^/]*@", "//", self.url)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}


def add_address(parser: argparse.ArgumentParser) -> Any:
    """The flags that ``read_address`` reads, as a group that the caller may add to."""
    group = parser.add_argument_group("who draws")
    group.add_argument("--server", metavar="URL", help="default: DARKROOM_URL, else this machine's")
    group.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key; default: DARKROOM_API_KEY")
    return group


def read_address(arguments: argparse.Namespace) -> Address:
    """The address in the flags, else in the environment, else this machine's port. Raises ConfigError."""
    from server.settings import API_KEY_VARIABLE, URL_VARIABLE, read_settings

    named = arguments.server or os.environ.get(URL_VARIABLE)
    if named:
        url, certificate = str(named), None
    else:
        settings = read_settings()
        url, certificate = f"{settings.scheme}://127.0.0.1:{settings.port or 8000}", settings.tls_cert
    if not is_url(url):
        raise ConfigError(f"--server ({URL_VARIABLE}) = {url!r}: must look like http://127.0.0.1:8000")
    # OpenAI's clients are given their base URL with /v1; whoever pastes that here means the same server.
    base = url.rstrip("/").removesuffix("/v1").removesuffix("/api")
    key_file = arguments.key_file
    key = os.environ.get(API_KEY_VARIABLE) or None if key_file is None else _read_key(key_file)
    return Address(base, key, bool(named), certificate)


def is_url(text: str) -> bool:
    """Is it the URL of a server that could be asked?"""
    import httpx

    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host) and (url.port or 0) <= _MAX_PORT


def _read_key(path: Path) -> str:
    try:
        key = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key-file {path}: cannot be read: {getattr(error, 'strerror', 'not text')}") from None
    if not key.isascii() or not key.isprintable() or not key:
        raise ConfigError(f"--key-file {path}: must hold one key, and nothing else")
    return key
