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

from server.catalog import Catalog, find_models_file, load_catalog
from server.commands.connection import Address, client_of, read_address, refusal
from server.settings import Settings

_NOBODY_S = 2.0  # to find out that no server runs here
_TASKS = {"text-to-image": "text", "image-to-image": "image", "inpainting": "mask"}  # what it draws from
_COLUMNS = ("ID", "tasks", "sizes", "state", "weights", "aliases")


def list_models(arguments: Namespace, settings: Settings) -> int:
    """Print the models. Returns the exit code."""
    address = None if settings.models is not None and arguments.server is None else read_address(arguments)
    rows = None
    if address is not None:
        try:
            rows = asyncio.run(_ask(address))
        except (httpx.HTTPError, ValueError) as error:
            if address.chosen:
                print(f"darkroom: no server answers at {address.url}: {type(error).__name__}", file=sys.stderr)
                return 1
    if rows is not None and "data" not in rows:
        print(f"darkroom: {refusal(401, rows)}", file=sys.stderr)
        return 1
    if rows is not None and address is not None:
        _print(f"{address.url} (running)", rows["data"])
        return 0
    catalog = load_catalog(find_models_file(settings.models))
    _print(str(catalog.path), _rows(catalog))
    return 0


async def _ask(address: Address) -> dict[str, Any]:
    async with client_of(address, timeout_s=_NOBODY_S if not address.chosen else 30.0) as client:
        body = (await client.get("/v1/models")).json()
        if not isinstance(body, dict):
            raise ValueError("no Darkroom")
        return body


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
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for column in _COLUMNS:
        plain = column in ("ID", "state", "weights")
        table.add_column(column, overflow="fold", no_wrap=plain, justify="right" if column == "weights" else "left")
    for row in rows:
        table.add_row(
            str(row.get("id")),
            " ".join(short for task, short in _TASKS.items() if task in row.get("tasks", ())),
            _sizes(row),
            str(row.get("state", "")),
            _bytes(row.get("weight_bytes")),
            " ".join(row.get("aliases", ())),
        )
    Console().print(table)


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
