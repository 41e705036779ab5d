"""``darkroom models pull``: fetch a model's folder from its hub, on a connected machine.

Knows the order of it: ask, fetch beside the folder, verify, then rename into it. Nothing in the folder changes before
every byte has come and is what the hub names, and no file that somebody has open is ever written to.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import LoadRefused
from pipelines.facts import component, seal
from server.commands.byte_progress import bars
from server.commands.failure import CommandFailed
from server.commands.models import hub
from server.commands.models.hub import Download, HubFile, Report, Repository
from server.commands.models.placing import Changed, ModelFolder, refuse_names
from server.errors import ConfigError

if TYPE_CHECKING:
    from server.settings import Settings

_KEPT = "What has come is kept, and nothing in the folder has changed"
_MAX_JSON_BYTES = 64 * 1024 * 1024


def pull(settings: Settings, name: str) -> None:
    """Fetch what loading reads of a model's folder from its hub. Raises ConfigError when the entry names none."""
    from server.catalog.load import find_models_file, load_catalog

    catalog = load_catalog(find_models_file(settings.models))
    model = catalog.resolve(name)
    owner = catalog.models[model.plan.key]
    if owner.entry.hub is None:
        raise ConfigError(f"{catalog.path}: models.{owner.id} has no hub key, so nothing says where to fetch it from")
    repository = hub.ask(owner.entry.hub)  # before the folder is made: a wrong name leaves nothing
    folder = ModelFolder(Path(owner.plan.folder))
    with folder.locked():
        try:
            changed = _pull(repository, folder)
        except LoadRefused as refusal:
            raise ConfigError(f"{owner.entry.hub}: nothing to serve: {refusal}") from None
    problem = owner.problem()
    if problem is not None:
        raise ConfigError(f"{folder.folder}: fetched, but cannot be served: {problem}")
    _say(owner.id, folder, changed)


def _say(name: str, folder: ModelFolder, changed: Changed) -> None:
    for removed in changed.removed:
        print(f"removed, as the hub has it no more: {removed}")
    for aside in changed.aside:
        if aside == seal.NAME:
            print(f"it was sealed before this change: `darkroom models seal {name}` seals it as it is now")
            continue
        print(f"put aside to {folder.kept / 'aside' / aside}, as the hub does not have it and loading would read it")
    print(f"{name} is in {folder.folder}{'' if changed else ', as it was'}")


def _pull(repository: Repository, folder: ModelFolder) -> Changed:
    """Bring a folder to what its repository has now. Raises LoadRefused, CommandFailed, OSError."""
    import httpx

    with httpx.Client(timeout=hub.TIMEOUT_S, follow_redirects=True) as client:
        download = Download(repository, folder.downloads, client)
        wanted = _wanted(repository, folder, download)
        refuse_names(wanted, repository.name)
        folder.refuse_links(wanted)
        staged = _fetch(repository, wanted, folder, download)
    changed = folder.place(staged, wanted, repository.files.keys())
    sizes = {each: repository.files[each].size for each in wanted}
    folder.end({"hub": repository.name, "revision": repository.revision, "files": sizes})
    return changed


def _wanted(repository: Repository, folder: ModelFolder, download: Download) -> tuple[str, ...]:
    """The files that loading reads, told from the repository's names and a few of its files."""

    def read(name: str) -> Mapping[str, Any]:
        refuse_names((name,), repository.name)
        file = repository.files[name]
        if (file.size or 0) > _MAX_JSON_BYTES:
            raise LoadRefused(f"{name} is too large")
        here = folder.folder / name
        path = here if file.is_at(here) else download.fetch(file, lambda come: None)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise LoadRefused(f"{name} is not valid JSON") from None
        if not isinstance(value, dict):
            raise LoadRefused(f"{name} is not a JSON object")
        return value

    return component.files_of_model(repository.files.keys(), read)


def _fetch(repository: Repository, wanted: Collection[str], folder: ModelFolder, download: Download) -> dict[str, Path]:
    """Have every wanted file that the folder does not have, whole, beside it."""
    files = [repository.files[name] for name in wanted]
    with bars(time_left=True) as progress:
        task = progress.add_task(f"{repository.name} → {folder.folder}", total=sum(file.size or 0 for file in files))

        def report(come: int) -> None:
            progress.advance(task, come)

        lacking = _lacking(files, folder, report)
        _refuse_full_disk(lacking, folder, download)
        try:
            return {file.name: download.fetch(file, report) for file in lacking}
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise CommandFailed(f"{folder.folder}: the disk is full. {_KEPT}: make room, and run it again") from None
        except KeyboardInterrupt:
            progress.console.print(f"{_KEPT}: run it again to go on")
            raise


def _lacking(files: Collection[HubFile], folder: ModelFolder, report: Report) -> list[HubFile]:
    """The files that the folder does not have as the hub has them."""
    lacking = []
    for file in files:
        if file.is_at(folder.folder / file.name):
            report(file.size or 0)
        else:
            lacking.append(file)
    return lacking


def _refuse_full_disk(lacking: Collection[HubFile], folder: ModelFolder, download: Download) -> None:
    needed = sum(max(0, (file.size or 0) - download.come(file)) for file in lacking)
    free = shutil.disk_usage(folder.folder).free
    if needed > free:
        short = f"{needed / 1e9:.1f} GB are to come, and the disk has {free / 1e9:.1f} GB free"
        raise CommandFailed(f"{folder.folder}: {short}; nothing is changed")
