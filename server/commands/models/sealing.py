"""``darkroom models seal`` and ``verify``: say what a model's files are, and whether they are that still.

Knows how both show their progress, and where a result is kept; what a seal is, pipelines/facts/seal.py knows, and what
of a model has one, pipelines/facts/sealed.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.facts import model_files, seal, sealed, upscaler
from pipelines.facts.seal import Report, Seal, State
from pipelines.facts.sealed import Sealed
from pipelines.plan import ModelPlan
from server.commands.byte_progress import bar
from server.commands.failure import CommandFailed
from server.storage import atomic
from server.storage.verified import VerifiedFolders

if TYPE_CHECKING:
    from server.catalog.catalog import Model
    from server.settings import Settings


def seal_model(settings: Settings, name: str, *, again: bool) -> None:
    """Write the seals of a model: of its folder, of each of its single files, adapters and embeddings. Raises
    CommandFailed for one that cannot be served, or that differs from a seal that it has, unless ``again`` says that the
    change was meant; OSError."""
    owner = _owner(settings, name)
    plan = owner.plan
    try:
        model_files.inspect(plan, with_seal=False)
    except LoadRefused as refusal:
        raise CommandFailed(f"{plan.source}: not sealed: {refusal}") from None
    wanted = [each for each in sealed.of(plan) if _is_whole(each)]
    if not again:
        for each in wanted:
            _refuse_changed(each, owner.id)
    for each in wanted:
        # A file that others share may be sealed: a folder is read again, as ever.
        kept = _read_or_none(each) if each.file is not None and not again else None
        found = _seal(settings, owner.id, each) if kept is None else kept
        files = f"{len(found.files)} files, {found.size / 1e6:.0f} MB: {each.manifest}"
        print(f"{owner.id}: {'sealed' if kept is None else 'sealed already:'} {files}")
        print(f"SHA-256 of the seal: {found.sha256}")


def _seal(settings: Settings, name: str, each: Sealed) -> Seal:
    try:
        names = each.names_to_seal()
        size = sum((each.folder / file).stat().st_size for file in names)
        with bar(name if each.file is None else each.file, size) as report:
            manifest = seal.make(each.folder, names, report)
    except LoadRefused as refusal:
        raise CommandFailed(f"{each.path}: not sealed: {refusal}") from None
    atomic.write(each.manifest, manifest, mode=0o644)
    found = each.read()
    assert found is not None
    _note(settings, each, found, intact=True)
    return found


def _is_whole(each: Sealed) -> bool:
    """Can it be used? An adapter or upscaler that cannot is told as such, and its model serves without it; of all else
    the model has been checked."""
    problem = None
    if each.key == "loras":
        problem = model_folder.adapter_problem(each.path, with_seal=False)
    elif each.key == "upscaler":
        problem = upscaler.problem(each.path, with_seal=False)
    if problem is not None:
        print(f"not sealed: {each.path}: {problem}", file=sys.stderr)
    return problem is None


def _read_or_none(each: Sealed) -> Seal | None:
    try:
        return each.read()
    except LoadRefused:
        return None


def _refuse_changed(each: Sealed, name: str) -> None:
    try:
        each.compare()
    except LoadRefused as refusal:
        said = str(refusal).partition(": `darkroom")[0]
        helps = f"`darkroom models seal {name} --again` seals it as it is now"
        raise CommandFailed(f"{each.path} is sealed, and {said}; if that was meant, {helps}") from None


def verify_model(settings: Settings, name: str) -> int:
    """Read every byte of a sealed model and say what differs. 0 where nothing does and all of its weights are sealed,
    else 1. Raises CommandFailed for one that is not sealed, OSError."""
    owner = _owner(settings, name)
    seals: dict[Sealed, Seal] = {}
    bare = []
    for each in sealed.of(owner.plan):
        try:
            found = each.read()
        except LoadRefused as refusal:
            raise CommandFailed(f"{each.path}: {refusal}") from None
        if found is not None:
            seals[each] = found
        elif not each.is_spare:
            bare.append(each)
    if not any(not each.is_spare for each in seals):
        helps = f"`darkroom models seal {owner.id}` seals it as it is now"
        raise CommandFailed(f"{owner.plan.source} is not sealed: {helps}")
    wrong = files = 0
    with bar(owner.id, sum(found.size for found in seals.values())) as report:
        states = {each: _verify(settings, each, found, report) for each, found in seals.items()}
    for state_of in states.values():
        files += len(state_of)
        for file, state in state_of.items():
            if state is not State.SAME:
                wrong += 1
                print(f"{state}: {file}")
    for each in bare:
        print(f"not sealed: {each.path}")
    count = f"{files} files, {sum(found.size for found in seals.values()) / 1e6:.0f} MB"
    print(f"{owner.id}: {f'{wrong} of {count} are not what was sealed' if wrong else f'{count}: as sealed'}")
    for found in seals.values():
        print(f"SHA-256 of the seal: {found.sha256}")
    return 1 if wrong or bare else 0


def problems_of_sealed(settings: Settings, plans: Mapping[str, ModelPlan]) -> dict[str, str]:
    """Read every byte of what is sealed of these plans, once. The problems, by key."""
    problems: dict[str, str] = {}
    verified: dict[Path, str | None] = {}
    for key, plan in plans.items():
        found = []
        for each in sealed.of(plan):
            if each.manifest not in verified:
                verified[each.manifest] = _problem_of(settings, key, each)
            problem = verified[each.manifest]
            if problem is not None:
                found.append(problem)
        if found:
            problems[key] = "; ".join(found)
    return problems


def _problem_of(settings: Settings, key: str, each: Sealed) -> str | None:
    try:
        found = each.read()
        if found is None:
            return None
        with bar(f"{key if each.file is None else each.file} against its seal", found.size) as report:
            states = _verify(settings, each, found, report)
    except (LoadRefused, OSError) as error:
        return f"its seal could not be verified: {error}"
    wrong = [f"{name} ({state})" for name, state in states.items() if state is not State.SAME]
    return f"not what was sealed: {', '.join(wrong)}" if wrong else None


def _verify(settings: Settings, each: Sealed, found: Seal, report: Report) -> dict[str, State]:
    try:
        names = each.names_compared()
    except LoadRefused:  # something is missing: what was sealed says which
        names = frozenset()
    states = dict(seal.verify(each.folder, found, names, report))
    _note(settings, each, found, intact=all(state is State.SAME for state in states.values()))
    return states


def _note(settings: Settings, each: Sealed, found: Seal, *, intact: bool) -> None:
    """Keep a result, for /v1/models. Who may read a model need not be who may write to the data folder."""
    try:
        VerifiedFolders(settings.data_dir).note(str(each.path), found.sha256, intact=intact)
    except OSError as error:
        print(f"{settings.data_dir}: /v1/models will not show this: {error.strerror}", file=sys.stderr)


def _owner(settings: Settings, name: str) -> Model:
    """The model that owns the weights of the one with this name."""
    from server.catalog.load import find_models_file, load_catalog

    catalog = load_catalog(find_models_file(settings.models))
    return catalog.models[catalog.resolve(name).plan.key]
