"""``darkroom doctor``: what is this machine, and what of models.yaml fits it? Serves nothing.

Knows flags and exit codes; findings.py judges, machine.py and a process with torch say what is here, and gpu.py runs
the sections of ``--gpu``.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from server.catalog.catalog import Catalog
    from server.commands.doctor.findings import Finding
    from server.settings import Settings
    from server.worker.devices import WorkerDevice

_MARKS = {"ok": "    ", "note": "note", "problem": "BAD "}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what this machine is and what of models.yaml fits it",
        epilog="Exit codes: 0 everything fits, 1 something does not, 2 wrong usage or configuration.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--models", type=Path, help="models.yaml to judge")
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of text")
    parser.add_argument("--gpu", action="store_true", help="measure the GPU: ten sections, ten minutes at most")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="with --gpu: an ID of models.yaml to measure instead of random weights; may be repeated",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="with --gpu: when to stop (default: 10)")
    parser.add_argument(
        "--out", type=Path, default=Path("doctor.json"), help="with --gpu: where figures go (default: doctor.json)"
    )


def run(arguments: Namespace) -> int:
    from server.catalog.load import find_models_file, load_catalog
    from server.settings import read_settings

    given = {} if arguments.models is None else {"models": arguments.models}
    settings = read_settings(**given)
    catalog = load_catalog(find_models_file(settings.models))
    if arguments.gpu:
        from server.commands.doctor import gpu

        return gpu.measure(catalog, settings, arguments)
    return _examine(catalog, settings, as_json=arguments.json)


def _examine(catalog: Catalog, settings: Settings, *, as_json: bool) -> int:
    from server.commands.doctor import inquiry
    from server.commands.doctor.findings import Level, examine
    from server.commands.doctor.machine import read_host
    from server.errors import ConfigError
    from server.worker import devices

    host, said = read_host(settings.data_dir), inquiry.ask(catalog, settings)
    drawn_on: Sequence[WorkerDevice] | str
    try:
        drawn_on = devices.find(settings)
    except ConfigError as error:
        drawn_on = str(error)
    found = examine(host, said, catalog, settings, devices=drawn_on)
    bad = sum(each.level is Level.PROBLEM for each in found)
    if as_json:
        document = {"fits": not bad, "host": host, "torch": said, "findings": found}
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        _print(found)
        print("\neverything fits" if not bad else f"\n{bad} problem{'s' * (bad > 1)}")
    return 1 if bad else 0


def _print(found: list[Finding]) -> None:
    for section, lines in groupby(found, key=lambda each: each.section):
        print(f"{section}")
        for line in lines:
            print(f"  {_MARKS[line.level]} {line.text}")
