"""``darkroom jobs``: the jobs of a running server, those that wait or are drawn and those whose results can be fetched.

Knows rows of /v1/images/jobs and one table for them; the server decides whose jobs they are.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from server.commands.address import add_address, read_address
from server.commands.failure import CommandFailed
from server.commands.saving import ENDINGS, Destination

if TYPE_CHECKING:
    import httpx

_TIMEOUT_S = 60.0
_COLUMNS = ("ID", "state", "age", "model", "pictures")
_UNFOLDED = 500  # columns where a program reads
_JOBS = "/v1/images/jobs"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("jobs", help="list your jobs, cancel one, or fetch its pictures")
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="the server's own rows")
    add_address(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    cancels = actions.add_parser("cancel", help="stop a job, whether it waits or is drawn")
    cancels.add_argument("id", metavar="ID")
    fetches = actions.add_parser("result", help="write the pictures of a job of Prefer: respond-async that is done")
    fetches.add_argument("id", metavar="ID")
    fetches.add_argument(
        *("-o", "--out"), type=Path, default=Path("out"), metavar="PATH", help="folder or file (default: out)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Raises CommandFailed where the server refuses or has no such job, ConfigError for what cannot be written."""
    asyncio.run(_run(arguments))
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    import httpx

    from server.commands.connection import client_of

    address = read_address(arguments)
    try:
        async with client_of(address, timeout_s=_TIMEOUT_S) as client:
            match arguments.action:
                case "cancel":
                    row = await _ask(client, "DELETE", arguments.id)
                    print(json.dumps(row) if arguments.json else row["status"])
                case "result":
                    await _result(client, arguments)
                case _:
                    rows = (await _ask(client, "GET", ""))["data"]
                    print(json.dumps(rows)) if arguments.json else _show(rows)
    except httpx.ConnectError:
        raise CommandFailed(f"no server answers at {address.shown}; name one with --server URL") from None
    except httpx.TransportError as error:
        raise CommandFailed(f"{address.shown} broke off: {type(error).__name__}") from None


async def _ask(client: httpx.AsyncClient, method: str, job: str) -> dict[str, Any]:
    from server.commands.connection import read_json, refusal

    answer = await client.request(method, f"{_JOBS}/{quote(job, safe='')}" if job else _JOBS)
    body = read_json(answer.text)
    if answer.status_code != 200:
        raise refusal(answer.status_code, body)
    if not {"status", "data"} & body.keys():
        raise refusal(answer.status_code, {})
    return body


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNFOLDED)
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for row in rows:
        age = _age(time.time() - row["created"])
        table.add_row(*(str(cell) for cell in (row["id"], _state(row), age, row["model"], row.get("n", ""))))
    console.print(table)


def _state(row: dict[str, Any]) -> str:
    if row["status"] == "running" and row["progress"]["of"]:
        return f"running {row['progress']['done']}/{row['progress']['of']}"
    if row["status"] == "queued":
        return f"queued {row['place']}"
    if row["status"] == "failed" and row["error"]:
        return f"failed: {row['error']['code']}"
    return f"{row['status']}, gone" if row.get("result_state") == "gone" else str(row["status"])


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


async def _result(client: httpx.AsyncClient, arguments: argparse.Namespace) -> None:
    row = await _ask(client, "GET", arguments.id)
    if row.get("result") is None:
        raise CommandFailed(_why_none(row))
    if arguments.json:
        print(json.dumps(row["result"]))
        return
    items = row["result"].get("data") or row["result"].get("images") or []
    destination = Destination(arguments.out)
    destination.check(len(items))
    for item in items:
        data = await _picture(client, item)
        path = destination.keep(data, prompt=arguments.id, seed=int(item.get("seed", 0)), format_=_format(data))
        print(path, flush=True)


def _why_none(row: dict[str, Any]) -> str:
    if "result_state" not in row:
        return "this job's pictures went to whoever waited for them; only jobs of Prefer: respond-async keep a result"
    if row["status"] == "failed" and row["error"]:
        return f"the job has failed: {row['error']['message']}"
    return {
        "pending": f"the job is {row['status']}; ask again later",
        "gone": "its pictures have expired, or were deleted; ask for new ones",
    }.get(row["result_state"], f"the job was {row['status']}")


async def _picture(client: httpx.AsyncClient, item: dict[str, Any]) -> bytes:
    from server.commands.connection import read_json, refusal

    if "url" in item:  # whatever name the server has for itself, it is the one that we have reached
        url = urlsplit(str(item["url"]))
        answer = await client.get(f"/files/{url.path.rpartition('/files/')[2]}?{url.query}")
        if answer.status_code != 200:
            raise refusal(answer.status_code, read_json(answer.text))
        return answer.content
    try:
        return base64.b64decode(item.get("b64_json") or item["data"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise CommandFailed("the server's answer holds no picture; is it Darkroom?") from None


def _format(data: bytes) -> str:
    """By the first bytes: results of some routes do not say it."""
    if data.startswith(b"\xff\xd8"):
        return "jpeg"
    return "webp" if data[8:12] == b"WEBP" else next(iter(ENDINGS))
