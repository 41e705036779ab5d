"""Looking at the configuration without serving: ``darkroom check`` and ``models pull``.

Knows models.yaml and folders; runs the same code that start-up runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.progress import Progress

from server.catalog.catalog import Catalog
from server.catalog.load import find_models_file, load_catalog
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
    adapters = _adapter_problems(catalog)
    for where, problem in adapters.items():
        print(f"{catalog.path}: {where}: {problem}", file=sys.stderr)
    print(
        f"{catalog.path}: {len(catalog.models)} models, {len(problems)} of {len(catalog.plans)} folders with problems"
    )
    return 1 if problems or adapters else 0


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


def _adapter_problems(catalog: Catalog) -> dict[str, str]:
    owners = {key: catalog.models[key] for key in catalog.plans}
    return {
        f"models.{key}.loras.{name}": problem
        for key, model in owners.items()
        for name, problem in model.lora_problems().items()
    }
