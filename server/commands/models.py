"""``darkroom models``: what can be drawn with, as a running server says, or else as models.yaml does.

Knows the rows of /v1/models and of the catalog, and one table for both.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.catalog.catalog import Catalog
from server.catalog.load import find_models_file, load_catalog
from server.commands.connection import Address, CommandFailed, client_of, read_address, read_json, refusal
from server.settings import Settings

_UNFOLDED = 500  # columns where a program reads: grep finds whole names on whole lines
_NOBODY_S = 2.0  # to find out that no server runs here
_TASKS = {"text-to-image": "text", "image-to-image": "image", "inpainting": "mask"}  # what it draws from
_COLUMNS = ("ID", "tasks", "sizes", "state", "weights", "aliases")


def list_models(arguments: Namespace, settings: Settings) -> int:
    """Print the models. Returns the exit code."""
    address = None if settings.models is not None and arguments.server is None else read_address(arguments)
    if address is not None:
        try:
            rows = asyncio.run(_ask(address))
        except httpx.HTTPError as error:
            if address.chosen:
                print(f"darkroom: no server answers at {address.shown}: {type(error).__name__}", file=sys.stderr)
                return 1
        except CommandFailed as failure:
            print(f"darkroom: {failure}", file=sys.stderr)
            return 1
        else:
            _print(f"{address.shown} (running)", rows)
            return 0
    catalog = load_catalog(find_models_file(settings.models))
    _print(str(catalog.path), _rows(catalog))
    return 0


async def _ask(address: Address) -> list[dict[str, Any]]:
    async with client_of(address, timeout_s=_NOBODY_S if not address.chosen else 30.0) as client:
        answer = await client.get("/v1/models")
    body = read_json(answer.text)
    if answer.status_code != 200 or not isinstance(body.get("data"), list):
        raise refusal(answer.status_code, body)
    rows: list[dict[str, Any]] = body["data"]
    return rows


def _rows(catalog: Catalog) -> list[dict[str, Any]]:
    """The catalog in the shape of /v1/models; the state is that of the folder."""
    problems = {key: catalog.models[key].problem() for key in catalog.plans}
    return [
        {
            "id": model.id,
            "tasks": sorted(model.family.tasks),
            "sizes": model.entry.sizes,
            "max_side": model.entry.max_side,
            "state": "on disk" if problems[model.plan.key] is None else "missing or broken",
            "weight_bytes": model.weight_bytes,
            "aliases": model.entry.aliases,
        }
        for model in catalog
    ]


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, header_style="bold", title=Text(title), title_justify="left")
    for column in _COLUMNS:
        plain = column in ("ID", "state", "weights")
        table.add_column(column, overflow="fold", no_wrap=plain, justify="right" if column == "weights" else "left")
    for row in rows:
        cells = (
            str(row.get("id")),
            " ".join(short for task, short in _TASKS.items() if task in row.get("tasks", ())),
            _sizes(row),
            str(row.get("state", "")),
            _bytes(row.get("weight_bytes")),
            " ".join(row.get("aliases", ())),
        )
        table.add_row(*map(Text, cells))  # as they are: brackets are no markup here
    Console(width=None if sys.stdout.isatty() else _UNFOLDED).print(table)


def _sizes(row: dict[str, Any]) -> str:
    sizes = row.get("sizes", "any")
    if sizes != "any":
        return " ".join(sizes or ())
    side = row.get("max_side")
    return f"any to {side}x{side}" if side else "any"


def _bytes(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
