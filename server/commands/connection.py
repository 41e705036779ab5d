"""Which server a command asks, with which key; and what its failures say on a command line.

Knows addresses, keys and the one shape of errors; knows nothing of pictures.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from argparse import Namespace
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx

from server.errors import ConfigError
from server.settings import API_KEY_VARIABLE, URL_VARIABLE, read_settings

_ANSWER_TIMEOUT_S = 900.0  # without a byte; a server that streams says something every ten seconds
_CONNECT_TIMEOUT_S = 5.0


class CommandFailed(Exception):
    """What the command line says before it ends with 1: what is wrong, and what helps."""


@dataclass(frozen=True)
class Address:
    """A server and the right to use it. ``chosen``: somebody named it, rather than nobody."""

    url: str
    key: str | None
    chosen: bool

    @property
    def shown(self) -> str:
        """The URL for messages: without a password."""
        return re.sub(r"//[^/]*@", "//", self.url)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}


def read_address(arguments: Namespace) -> Address:
    """From flags, then the environment, then this machine's port. Raises ConfigError."""
    named = arguments.server or os.environ.get(URL_VARIABLE)
    url = named or f"http://127.0.0.1:{read_settings().port or 8000}"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"--server ({URL_VARIABLE}) = {url!r}: must look like http://127.0.0.1:8000")
    # OpenAI's clients are given their base URL with /v1; whoever pastes that here means the same server.
    base = url.rstrip("/").removesuffix("/v1").removesuffix("/api")
    return Address(base, _read_key(arguments.key_file), named is not None)


def _read_key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(API_KEY_VARIABLE) or None
    try:
        key = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key-file {path}: cannot be read: {getattr(error, 'strerror', 'not text')}") from None
    if not key.isascii() or not key.isprintable() or not key:
        raise ConfigError(f"--key-file {path}: must hold one key, and nothing else")
    return key


@contextlib.asynccontextmanager
async def connected(arguments: Namespace) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server that draws; with ``--local``, of one inside this process."""
    if getattr(arguments, "local", False):
        from server.commands import inside

        async with (
            inside.opened(read_settings()) as transport,
            httpx.AsyncClient(base_url=inside.URL, transport=transport, timeout=_ANSWER_TIMEOUT_S) as client,
        ):
            yield client
        return
    address = read_address(arguments)
    async with client_of(address, timeout_s=_ANSWER_TIMEOUT_S) as client:
        try:
            yield client
        except httpx.ConnectError:
            raise CommandFailed(
                f"no server answers at {address.shown}. Start one with `darkroom serve`, name one with --server URL,"
                " or draw without one: --local"
            ) from None
        except httpx.TransportError as error:
            raise CommandFailed(f"{address.shown} broke off: {type(error).__name__}") from None


def client_of(address: Address, *, timeout_s: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=address.url,
        headers=address.headers,
        timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
        trust_env=not _is_this_machine(httpx.URL(address.url).host),  # no proxy to oneself
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refusal(status: int, body: Any) -> CommandFailed:
    """A failure answer in words: the server's own, and what a command line can do about it."""
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if not isinstance(message, str):
        return CommandFailed(f"the server answered {status}, and not as Darkroom does; is the URL right?")
    if status == 401:
        return CommandFailed(f"{message} Here: --key-file FILE, or the variable {API_KEY_VARIABLE}.")
    return CommandFailed(message)


def read_json(text: str) -> dict[str, Any]:
    """A JSON object; an empty one for all else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
