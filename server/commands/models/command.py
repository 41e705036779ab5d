"""``darkroom models``: list the models to draw with, and the actions upon one of them.

Knows the rows of /v1/models and of the catalog, and one table for both. A running server is asked; without one,
models.yaml is read. ``pull``, ``import``, ``seal`` and ``verify`` stand in modules of their own.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from server.commands.address import Address, add_address, read_address
from server.commands.failure import CommandFailed
from server.commands.models import comparing
from server.commands.trust import refused_certificate

if TYPE_CHECKING:
    from server.catalog.catalog import Catalog
    from server.settings import Settings

_UNFOLDED = 500  # columns where a program reads: grep finds whole names on whole lines
_LOAD_TIMEOUT_S = 1800.0  # a load may take minutes, and waits for others
_NOBODY_S = 2.0  # to find out that no server runs here
_TASKS = {"text-to-image": "text", "image-to-image": "image", "inpainting": "mask"}  # what it draws from
_COLUMNS = ("ID", "tasks", "sizes", "state", "weights", "aliases")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("models", help="list the models, or fetch one on a connected machine")
    parser.set_defaults(run=run)
    parser.add_argument("--models", type=Path, help="models.yaml to read, whether or not a server runs")
    add_address(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    fetch = actions.add_parser("pull", help="fetch a model's folder from the hub (the one command that may)")
    fetch.add_argument("id", metavar="ID")
    imports = actions.add_parser("import", help="say what a file of weights is, and print its entry for models.yaml")
    imports.add_argument("file", metavar="FILE", type=Path)
    imports.add_argument("--as", dest="name", metavar="ID", help="the model's ID (default: from the file's name)")
    imports.add_argument(
        "--into", metavar="WHERE", help="the ID that a VAE or a LoRA belongs to; with --copy, the folder to make"
    )
    imports.add_argument("--write", action="store_true", help="add the entry of a model to models.yaml")
    imports.add_argument("--copy", action="store_true", help="write the model as a folder in diffusers' format")
    imports.add_argument("--config", metavar="DIR", type=Path, help="a folder of configurations in place of ours")
    imports.add_argument("--vae", metavar="FILE", type=Path, help="the VAE, where FILE has none")
    imports.add_argument(
        *("--text-encoder",), metavar="FILE", type=Path, action="append", default=[], help="a text encoder; repeatable"
    )
    imports.add_argument("--tokenizer", metavar="PATH", type=Path, help="T5's tokenizer.json or spiece.model")
    seals = actions.add_parser("seal", help="note what a model's files are, for loading and verify to compare")
    seals.add_argument("id", metavar="ID")
    seals.add_argument("--again", action="store_true", help="although it is sealed and has changed")
    verifies = actions.add_parser("verify", help="read every byte of a sealed model, and say what differs")
    verifies.add_argument("id", metavar="ID")
    comparing.add_flags(
        actions.add_parser(
            "compare",
            help="draw with and without company and step cache, and say how far the pictures differ",
            epilog="Exit codes: 0 what shares steps is within the tolerance, 1 it is not, or a picture cannot be drawn,"
            " 2 wrong usage or configuration, a model that cannot be loaded or that shares no steps.",
        )
    )
    for action, text in (("load", "have the running server load a model"), ("unload", "have it unload one")):
        moves = actions.add_parser(action, help=f"{text} (needs an admin key)")
        moves.add_argument("id", metavar="ID")
        moves.add_argument("--device", metavar="NAME", help="on this device alone, where the server has several")


def run(arguments: Namespace) -> int:
    from server.settings import read_settings

    # A flag that was not typed must not hide its variable in the environment.
    given = {} if arguments.models is None else {"models": arguments.models}
    settings = read_settings(**given)
    if arguments.action == "pull":
        from server.commands.models.pull import pull

        pull(settings, arguments.id)
    elif arguments.action == "import":
        from server.commands.models.importing import Wanted, import_file

        beside = {"config": arguments.config, "vae": arguments.vae, "tokenizer": arguments.tokenizer}
        wanted = Wanted(
            arguments.file,
            {key: path for key, path in beside.items() if path is not None},
            tuple(arguments.text_encoder),
            name=arguments.name,
            into=arguments.into,
            writes=arguments.write,
            copies=arguments.copy,
        )
        import_file(settings, wanted)
    elif arguments.action == "seal":
        from server.commands.models.sealing import seal_model

        seal_model(settings, arguments.id, again=arguments.again)
    elif arguments.action == "verify":
        from server.commands.models.sealing import verify_model

        return verify_model(settings, arguments.id)
    elif arguments.action == "compare":
        return comparing.compare_model(settings, arguments.id, prompts=arguments.prompts, tolerance=arguments.tolerance)
    elif arguments.action in ("load", "unload"):
        asyncio.run(_move(read_address(arguments), arguments.id, arguments.action, arguments.device))
    else:
        list_models(arguments, settings)
    return 0


def list_models(arguments: Namespace, settings: Settings) -> None:
    """Print the models. Raises CommandFailed where a server that somebody named gives no list."""
    import httpx

    from server.catalog.load import find_models_file, load_catalog

    address = None if settings.models is not None and arguments.server is None else read_address(arguments)
    if address is not None:
        try:
            rows = asyncio.run(_ask(address))
        except httpx.HTTPError as error:
            if address.chosen:
                refused = refused_certificate(error, address.shown)
                raise CommandFailed(
                    refused or f"no server answers at {address.shown}: {type(error).__name__}"
                ) from None
        else:
            _print(f"{address.shown} (running)", rows)
            return
    catalog = load_catalog(find_models_file(settings.models))
    _print(str(catalog.path), _rows(catalog))


async def _ask(address: Address) -> list[dict[str, Any]]:
    from server.commands.connection import client_of, read_json, refusal

    async with client_of(address, timeout_s=_NOBODY_S if not address.chosen else 30.0) as client:
        answer = await client.get("/v1/models")
    body = read_json(answer.text)
    if answer.status_code != 200 or not isinstance(body.get("data"), list):
        raise refusal(answer.status_code, body)
    rows: list[dict[str, Any]] = body["data"]
    return [row for row in rows if not row.get("alias_of")]  # an ID's own row names them


async def _move(address: Address, name: str, action: str, device: str | None) -> None:
    """Have a running server load or unload a model. Raises CommandFailed."""
    import httpx

    from server.commands.connection import client_of, read_json, refusal

    async with client_of(address, timeout_s=_LOAD_TIMEOUT_S) as client:
        try:
            where = {} if device is None else {"device": device}
            answer = await client.post(f"/v1/models/{quote(name)}/{action}", params=where)
        except httpx.ConnectError as error:
            refused = refused_certificate(error, address.shown)
            raise CommandFailed(refused or f"no server answers at {address.shown}") from None
        except httpx.TransportError as error:
            raise CommandFailed(f"{address.shown} broke off: {type(error).__name__}") from None
    body = read_json(answer.text)
    if not answer.is_success:
        raise refusal(answer.status_code, body)
    print(f"{body.get('id')}: {'loaded' if action == 'load' else _left(body, device)}")


def _left(body: Mapping[str, Any], device: str | None) -> str:
    """Whether a model that was to be unloaded has left, as the server's answer says."""
    states = body.get("devices") or {"": body.get("state")}
    if device not in states and len(set(states.values())) > 1:  # named by its UUID or its kind
        return ", ".join(f"{state} on {name}" for name, state in states.items())
    asked = [states[device]] if device in states else list(states.values())
    return "unloaded" if set(asked) <= {"unloaded"} else "leaves once nothing is drawn with it"


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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", title=Text(title), title_justify="left")
    for column in _COLUMNS:
        plain = column in ("ID", "state", "weights")
        table.add_column(column, overflow="fold", no_wrap=plain, justify="right" if column == "weights" else "left")
    for row in rows:
        cells = (
            str(row.get("id")),
            " ".join(short for task, short in _TASKS.items() if task in row.get("tasks", ())),
            _sizes(row),
            _state(row),
            _bytes(row.get("weight_bytes")),
            " ".join(row.get("aliases", ())),
        )
        table.add_row(*map(Text, cells))  # as they are: brackets are no markup here
    Console(width=None if sys.stdout.isatty() else _UNFOLDED).print(table)


def _state(row: dict[str, Any]) -> str:
    """Of each device where they differ, else of all."""
    states = row.get("devices") or {}
    if len(set(states.values())) < 2:
        return str(row.get("state", ""))
    return ", ".join(f"{state} on {device}" for device, state in states.items())


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
