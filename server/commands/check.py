"""``darkroom check``: is the configuration sound?

Knows the settings, models.yaml and model folders; runs the code that start-up runs, and serves nothing.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.facts import requirements

if TYPE_CHECKING:
    from server.catalog.catalog import Catalog
    from server.settings import Settings


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("check", help="check settings, models.yaml and model folders without serving")
    parser.set_defaults(run=run)
    parser.add_argument("--models", type=Path, help="models.yaml to check")


def run(arguments: Namespace) -> int:
    from server.settings import read_settings

    # A flag that was not typed must not hide its variable in the environment.
    given = {} if arguments.models is None else {"models": arguments.models}
    return check(read_settings(**given))


def check(settings: Settings) -> int:
    """Say what is wrong with models.yaml and the folders it names. 0 when everything can be served, else 1."""
    from server.catalog.load import find_models_file, load_catalog
    from server.commands.doctor import machine

    catalog = load_catalog(find_models_file(settings.models))
    problems = _problems(catalog, compiles=settings.device != "cpu" and machine.has_cuda_device())
    for key, problem in problems.items():
        print(f"{catalog.path}: models.{key}: {catalog.plans[key].folder}: {problem}", file=sys.stderr)
    adapters = _adapter_problems(catalog)
    for where, problem in adapters.items():
        print(f"{catalog.path}: {where}: {problem}", file=sys.stderr)
    print(
        f"{catalog.path}: {len(catalog.models)} models, {len(problems)} of {len(catalog.plans)} folders with problems"
    )
    return 1 if problems or adapters else 0


def _problems(catalog: Catalog, *, compiles: bool) -> dict[str, str]:
    """Folders that cannot be served: the key of the model that owns one, and what is wrong. ``compiles`` is whether
    ``compile`` has an effect on this machine: elsewhere nobody needs a compiler."""
    owners = {key: catalog.models[key] for key in catalog.plans}
    found = {key: model.problem() for key, model in owners.items()}
    if compiles and (lacking := requirements.missing_for_compile()) is not None:
        found |= {key: lacking for key, plan in catalog.plans.items() if plan.compile and found[key] is None}
    return {key: problem for key, problem in found.items() if problem is not None}


def _adapter_problems(catalog: Catalog) -> dict[str, str]:
    """LoRA files that cannot be used: the place in models.yaml, and what is wrong."""
    owners = {key: catalog.models[key] for key in catalog.plans}
    return {
        f"models.{key}.loras.{name}": problem
        for key, model in owners.items()
        for name, problem in model.lora_problems().items()
    }
