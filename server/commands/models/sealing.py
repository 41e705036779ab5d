"""``darkroom models seal`` and ``verify``: say what a model's files are, and whether they are that still.

Knows how both show their progress, and where a result is kept; what a seal is, pipelines/facts/seal.py knows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.facts import seal
from pipelines.facts.seal import Report, State
from server.commands.byte_progress import bar
from server.commands.failure import CommandFailed
from server.storage import atomic
from server.storage.verified import VerifiedFolders

if TYPE_CHECKING:
    from server.catalog.catalog import Model
    from server.settings import Settings


def seal_model(settings: Settings, name: str, *, again: bool) -> None:
    """Write the seal of a model's folder. Raises CommandFailed for one that cannot be served, or that differs from the
    seal that it has, unless ``again`` says that the change was meant; OSError."""
    owner = _owner(settings, name)
    folder = Path(owner.plan.folder)
    try:
        model_folder.inspect(folder, with_seal=False)
        if not again:
            _refuse_changed(folder, owner.id)
        names = model_folder.files_read(folder)
        with bar(owner.id, sum((folder / each).stat().st_size for each in names)) as report:
            manifest = seal.make(folder, names, report)
    except LoadRefused as refusal:
        raise CommandFailed(f"{folder}: not sealed: {refusal}") from None
    atomic.write(folder / seal.NAME, manifest, mode=0o644)
    sealed = seal.read(folder)
    assert sealed is not None
    _note(settings, folder, sealed, intact=True)
    print(f"{owner.id}: sealed {len(names)} files, {sealed.size / 1e6:.0f} MB: {folder / seal.NAME}")
    print(f"SHA-256 of the seal: {sealed.sha256}")


def _refuse_changed(folder: Path, name: str) -> None:
    try:
        seal.compare(folder, model_folder.files_read(folder))
    except LoadRefused as refusal:
        said = str(refusal).partition(": `darkroom")[0]
        helps = f"`darkroom models seal {name} --again` seals it as it is now"
        raise CommandFailed(f"{folder} is sealed, and {said}; if that was meant, {helps}") from None


def verify_model(settings: Settings, name: str) -> int:
    """Read every byte of a sealed model and say what differs. 0 where nothing does, else 1. Raises CommandFailed for
    one that is not sealed, OSError."""
    owner = _owner(settings, name)
    folder = Path(owner.plan.folder)
    try:
        sealed = seal.read(folder)
    except LoadRefused as refusal:
        raise CommandFailed(f"{folder}: {refusal}") from None
    if sealed is None:
        raise CommandFailed(f"{folder} is not sealed: `darkroom models seal {owner.id}` seals it as it is now")
    with bar(owner.id, sealed.size) as report:
        found = _verify(settings, folder, sealed, report)
    wrong = {name: state for name, state in found.items() if state is not State.SAME}
    for each, state in wrong.items():
        print(f"{state}: {each}")
    count = f"{len(found)} files, {sealed.size / 1e6:.0f} MB"
    print(f"{owner.id}: {f'{len(wrong)} of {count} are not what was sealed' if wrong else f'{count}: as sealed'}")
    print(f"SHA-256 of the seal: {sealed.sha256}")
    return 1 if wrong else 0


def problems_of_sealed(settings: Settings, folders: Mapping[str, str]) -> dict[str, str]:
    """Read every byte of those of these folders that are sealed. The problems, by key."""
    problems = {}
    for key, each in folders.items():
        folder = Path(each)
        try:
            sealed = seal.read(folder)
            if sealed is None:
                continue
            with bar(f"{key} against its seal", sealed.size) as report:
                found = _verify(settings, folder, sealed, report)
        except (LoadRefused, OSError) as error:
            problems[key] = f"its seal could not be verified: {error}"
            continue
        wrong = [f"{name} ({state})" for name, state in found.items() if state is not State.SAME]
        if wrong:
            problems[key] = f"not what was sealed: {', '.join(wrong)}"
    return problems


def _verify(settings: Settings, folder: Path, sealed: seal.Seal, report: Report) -> dict[str, State]:
    try:
        names = model_folder.files_read(folder)
    except LoadRefused:  # something is missing: what was sealed says which
        names = ()
    found = dict(seal.verify(folder, sealed, names, report))
    _note(settings, folder, sealed, intact=all(state is State.SAME for state in found.values()))
    return found


def _note(settings: Settings, folder: Path, sealed: seal.Seal, *, intact: bool) -> None:
    """Keep a result, for /v1/models. Who may read a model need not be who may write to the data folder."""
    try:
        VerifiedFolders(settings.data_dir).note(str(folder), sealed.sha256, intact=intact)
    except OSError as error:
        print(f"{settings.data_dir}: /v1/models will not show this: {error.strerror}", file=sys.stderr)


def _owner(settings: Settings, name: str) -> Model:
    """The model that owns the weights of the one with this name."""
    from server.catalog.load import find_models_file, load_catalog

    catalog = load_catalog(find_models_file(settings.models))
    owner = catalog.models[catalog.resolve(name).plan.key]
    if owner.plan.checkpoint is not None:
        raise CommandFailed(f"{owner.id} is the single file {owner.plan.checkpoint}; seals are for folders")
    return owner
