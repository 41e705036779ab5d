"""``darkroom usage``: what was used by key, model and day, as the server tells it.

Knows the rows of /v1/usage and one table for them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from argparse import Namespace
from datetime import date
from typing import Any

from server.commands.address import Address, add_address, read_address
from server.commands.failure import CommandFailed

_TIMEOUT_S = 60.0
_UNFOLDED = 500  # columns where a program reads: names are whole
_COLUMNS = ("day", "key", "model", "pictures", "megapixel-steps", "device s")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("usage", help="what was used by key, model and day; all keys' with an admin key")
    parser.set_defaults(run=run)
    parser.add_argument("--days", type=_days, default=30, metavar="N", help="how many days (30)")
    parser.add_argument("--until", type=_date, metavar="DATE", help="the last of them, as 2027-01-31 (today, UTC)")
    parser.add_argument("--key", metavar="NAME", help="only the key of this name")
    parser.add_argument("--json", action="store_true", help="the server's own answer")
    add_address(parser)


def run(arguments: Namespace) -> int:
    """Ask the server and print. Raises CommandFailed."""
    params = {"days": str(arguments.days)}
    if arguments.until is not None:
        params["until"] = arguments.until.isoformat()
    if arguments.key is not None:
        params["key"] = arguments.key
    body = asyncio.run(_ask(read_address(arguments), params))
    if arguments.json:
        print(json.dumps(body, indent=2))
        return 0
    _print(body)
    return 0


async def _ask(address: Address, params: dict[str, str]) -> dict[str, Any]:
    import httpx

    from server.commands.connection import client_of, read_json, refusal

    async with client_of(address, timeout_s=_TIMEOUT_S) as client:
        try:
            answer = await client.get("/v1/usage", params=params)
        except httpx.ConnectError:
            raise CommandFailed(f"no server answers at {address.shown}") from None
        except httpx.TransportError as error:
            raise CommandFailed(f"{address.shown} broke off: {type(error).__name__}") from None
    body = read_json(answer.text)
    if answer.status_code != 200 or not isinstance(body.get("data"), list):
        raise refusal(answer.status_code, body)
    return body


def _print(body: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*_COLUMNS[:3], box=None, pad_edge=False)
    for column in _COLUMNS[3:]:
        table.add_column(column, justify="right")
    for row in body["data"]:
        table.add_row(row["day"], row["key"], row["model"], *_figures(row))
    table.add_section()
    table.add_row("total", "", "", *_figures(body["total"]))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNFOLDED)
    console.print(f"{body['since']} to {body['until']} (UTC)", highlight=False)
    console.print(table, highlight=False)
    for name, quota in body["quotas"].items():
        if isinstance(quota, dict) and quota["limit"] is not None:
            left = f"{quota['left']:g} of {quota['limit']:g} {name.replace('_', '-')} left today"
            console.print(left, highlight=False)
    if not body["complete"]:
        console.print("The server cannot read its database: this is what it has in memory.", highlight=False)


def _figures(row: dict[str, Any]) -> tuple[str, str, str]:
    return str(row["pictures"]), f"{row['megapixel_steps']:.1f}", f"{row['device_s']:.1f}"


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 366):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 1 to 366")
    return int(text)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a date as 2027-01-31") from None
