"""Looking at the configuration without serving: ``darkroom check``, ``models`` and ``models pull``.

Knows models.yaml and folders; runs the same code that start-up runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from server.catalog import Catalog, find_models_file, load_catalog
from server.errors import ConfigError
from server.settings import Settings

# What a diffusers folder is made of; pickled weights are never fetched.
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.md", "LICENSE*")


def check(settings: Settings) -> int:
    """Say what is wrong with models.yaml and the folders it names. 0 when everything can be served, else 1."""
    catalog = _load(settings)
    problems = _problems(catalog)
    for key, problem in problems.items():
        print(f"{catalog.path}: models.{key}: {catalog.plans[key].folder}: {problem}", file=sys.stderr)
    print(
        f"{catalog.path}: {len(catalog.models)} models, {len(problems)} of {len(catalog.plans)} folders with problems"
    )
    return 1 if problems else 0


def list_models(settings: Settings) -> int:
    """Print the models as a table."""
    catalog = _load(settings)
    problems = _problems(catalog)
    table = Table(box=None, header_style="bold")
    for column in ("ID", "weights", "family", "sizes", "aliases", "state"):
        table.add_column(column, overflow="fold")
    for model in catalog:
        state = "missing or broken" if model.plan.key in problems else "on disk"
        aliases = " ".join(model.entry.aliases)
        table.add_row(model.id, model.plan.key, model.family.name, model.sizes, aliases, state)
    Console().print(table)
    return 0


def pull(settings: Settings, name: str) -> int:
    """Fetch a model's folder from its hub. Raises ConfigError when the entry names none."""
    catalog = _load(settings)
    model = catalog.resolve(name)
    owner = catalog.models[model.plan.key]
    if owner.entry.hub is None:
        raise ConfigError(f"{catalog.path}: models.{owner.id} has no hub key, so nothing says where to fetch it from")
    from huggingface_hub import snapshot_download

    folder = Path(owner.plan.folder)
    with Progress() as progress:
        progress.add_task(f"{owner.entry.hub} → {folder}", total=None)
        try:
            snapshot_download(owner.entry.hub, local_dir=folder, allow_patterns=list(_PATTERNS))
        except Exception as error:
            raise ConfigError(f"{owner.entry.hub} could not be fetched: {type(error).__name__}") from error
    problem = owner.problem()
    if problem is not None:
        raise ConfigError(f"{folder}: fetched, but cannot be served: {problem}")
    print(f"{owner.id} is in {folder}")
    return 0


def _load(settings: Settings) -> Catalog:
    return load_catalog(find_models_file(settings.models))


def _problems(catalog: Catalog) -> dict[str, str]:
    owners = {key: catalog.models[key] for key in catalog.plans}
    found = {key: model.problem() for key, model in owners.items()}
    return {key: problem for key, problem in found.items() if problem is not None}
