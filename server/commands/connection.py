"""The connection of a command to the server that draws, and what its failures say on a command line.

Knows the HTTP client and the one shape of errors; knows nothing of pictures.
"""

from __future__ import annotations

import contextlib
import json
from argparse import Namespace
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any

import httpx

from server.commands import inside
from server.commands.address import Address, read_address
from server.commands.failure import CommandFailed
from server.commands.trust import context_for, refused_certificate
from server.settings import API_KEY_VARIABLE, read_settings

_ANSWER_TIMEOUT_S = 900.0  # without a byte; a server that streams says something every ten seconds
_CONNECT_TIMEOUT_S = 5.0


@contextlib.asynccontextmanager
async def connected(arguments: Namespace) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server that draws; with ``--local``, of one inside this process. Raises CommandFailed."""
    if arguments.local:
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
        except httpx.ConnectError as error:
            raise CommandFailed(
                refused_certificate(error, address.shown)
                or f"no server answers at {address.shown}. Start one with `darkroom serve`, name one with --server URL,"
                " or draw without one: --local"
            ) from None
        except httpx.TransportError as error:
            raise CommandFailed(f"{address.shown} broke off: {type(error).__name__}") from None


def client_of(address: Address, *, timeout_s: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=address.url,
        headers=address.headers,
        verify=context_for(address.url, address.own_certificate),
        timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
        trust_env=not is_this_machine(httpx.URL(address.url).host),  # no proxy to oneself
    )


def is_this_machine(host: str) -> bool:
    """Is it this machine's loopback, by name or address?"""
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
