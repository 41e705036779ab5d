"""The catalog that is served now, and its replacement while the server runs.

Knows models.yaml, when it changes, and the worker that draws by it; knows no HTTP. The one owner of the current
catalog: a request takes it once, and what is under way ends on what it began with. A file that is wrong changes
nothing: the reason is kept here, and logged once for each change.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.plan import ModelPlan
from server.catalog.catalog import Catalog
from server.catalog.load import load_catalog
from server.catalog.watch import Stamps, has_settled, stamps
from server.errors import ConfigError
from server.worker.devices import WorkerDevice
from server.worker.fleet import Fleet
from server.worker.status import ModelState, ModelStatus

log = logging.getLogger("darkroom.catalog")

POLL_S = 1.0  # a change counts once it has been the same for two looks: nobody is still writing it


@dataclass(frozen=True)
class Changes:
    """The IDs that a reading of models.yaml has changed."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True)
class _Problems:
    """What is wrong with the folders of plans that are new, by key."""

    folders: dict[str, str]
    adapters: dict[str, dict[str, str]]  # by key and name


class ServedCatalog:
    """The current catalog of one server. All methods run on the event loop's thread."""

    def __init__(self, file: Path, catalog: Catalog, worker: Fleet, devices: Sequence[WorkerDevice] = ()) -> None:
        """``file`` is the path as it was named, with its links: they may be turned to another file. Models may be bound
        to ``devices``."""
        self.current = catalog
        self.problem = ""  # why the file as it is now is not served, without its folder
        self._file = file
        self._worker = worker
        self._devices = devices
        self._reading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._known = self._look()
        self._mark(_problems(catalog, catalog.plans.values()))
        _log_refused_checkpoints({}, catalog.refused_checkpoints)
        _log_refused_upscalers({}, catalog.upscaler_problems())

    async def watch(self) -> None:
        """Read the file again whenever it has changed, for as long as the server runs."""
        before = self._known
        while True:
            await asyncio.sleep(POLL_S)
            now = await asyncio.to_thread(self._look)
            settled, before = has_settled(self._known, before, now), now
            if settled:
                await self._reload_and_log()

    def _look(self) -> Stamps:
        """What is on the disk now, of all that the current catalog was made of and waits for."""
        return stamps(self._file, self.current.watched_folders, self.current.awaited)

    def reload_soon(self) -> None:
        """Read the file again, whether or not it has changed."""
        task = asyncio.create_task(self._reload_and_log(), name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload(self) -> Changes:
        """Read the file again now. Raises ConfigError for one that is wrong: all is as it was then."""
        async with self._reading:  # two at once: the second sees what the first has made
            self._known = await asyncio.to_thread(self._look)
            known = set(self.current.plans.values())
            try:
                catalog, problems = await asyncio.to_thread(_read, self._file, known, self._devices)
            except ConfigError as error:
                log.error("models.yaml is wrong, the one before is served", extra={"reason": str(error)})
                self.problem = _without_folder(str(error), self._file)
                raise
            changes = _compare(self.current, catalog)
            # From here on nothing waits: no request finds one half without the other.
            plans = catalog.served_plans
            if plans != self.current.served_plans or _preloads(catalog) != _preloads(self.current):
                self._worker.serve(plans.values(), _preloads(catalog))
            self._mark(problems)
            self._unmark(catalog)
            _log_refused(self.current, catalog)
            _log_refused_checkpoints(self.current.refused_checkpoints, catalog.refused_checkpoints)
            _log_refused_upscalers(self.current.upscaler_problems(), catalog.upscaler_problems())
            self.current = catalog
            if self.problem or changes:
                log.info(
                    "models.yaml read again",
                    extra={"added": changes.added, "changed": changes.changed, "removed": changes.removed},
                )
            self.problem = ""
            return changes

    async def _reload_and_log(self) -> None:
        try:
            await self.reload()
        except ConfigError:
            pass  # logged, and kept
        except Exception:  # whatever it was: the next change is looked at again
            log.exception("models.yaml could not be read again")

    def _mark(self, problems: _Problems) -> None:
        """Say at once which folders are missing or broken, rather than at the first request."""
        for key, reason in problems.folders.items():
            log.error("model cannot be served", extra={"model": key, "reason": reason})
            self._worker.models[key] = ModelStatus(ModelState.BROKEN, reason)
        for key, adapters in problems.adapters.items():
            for name, reason in adapters.items():
                log.error("adapter cannot be used", extra={"model": key, "adapter": name, "reason": reason})

    def _unmark(self, catalog: Catalog) -> None:
        """Call what is whole now no longer broken, where its plan is as it was when something of it was missing."""
        for key, plan in catalog.plans.items():
            old, status = self.current.models.get(key), self._worker.models.get(key)
            if old is None or old.plan != plan or status is None or status.state is not ModelState.BROKEN:
                continue
            if old.weight_bytes is None and catalog.models[key].weight_bytes is not None:
                self._worker.models[key] = ModelStatus()


def _without_folder(text: str, file: Path) -> str:
    """As anybody may read it."""
    for path in (os.path.realpath(file), str(file)):
        text = text.replace(path, file.name)
    return text


def _read(file: Path, known: Iterable[ModelPlan], devices: Sequence[WorkerDevice]) -> tuple[Catalog, _Problems]:
    try:
        catalog = load_catalog(file, devices)
    except OSError as error:  # a folder on the way that cannot be read
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    known = set(known)
    return catalog, _problems(catalog, [plan for plan in catalog.plans.values() if plan not in known])


def _problems(catalog: Catalog, plans: Iterable[ModelPlan]) -> _Problems:
    for each in catalog:
        _ = each.weight_bytes  # read here, and not on the event loop when a list of models is asked for
    _ = catalog.awaited  # nor at the next look
    folders: dict[str, str] = {}
    adapters: dict[str, dict[str, str]] = {}
    for plan in plans:
        model = catalog.models[plan.key]
        problem = model.problem()
        if problem is not None:
            folders[plan.key] = problem
        adapters[plan.key] = model.lora_problems()
    return _Problems(folders, adapters)


def _log_refused(old: Catalog, new: Catalog) -> None:
    """Say which files of folders cannot be adapters, once each."""
    for model in new:
        before = old.models.get(model.id)
        known = {} if before is None or before.lora_folder is None else before.lora_folder.refused
        refused = {} if model.lora_folder is None else model.lora_folder.refused
        for name, reason in refused.items():
            if known.get(name) != reason:
                log.error("adapter cannot be used", extra={"model": model.id, "adapter": name, "reason": reason})


def _log_refused_checkpoints(before: Mapping[str, str], refused: Mapping[str, str]) -> None:
    """Say which files of the folder of checkpoints are no models, once each."""
    for name, reason in refused.items():
        if before.get(name) != reason:
            log.error("checkpoint cannot be served", extra={"file": name, "reason": reason})


def _log_refused_upscalers(before: Mapping[str, str], refused: Mapping[str, str]) -> None:
    """Say which upscalers cannot be used, once each."""
    for where, reason in refused.items():
        if before.get(where) != reason:
            log.error("upscaler cannot be used", extra={"key": where, "reason": reason})


def _preloads(catalog: Catalog) -> set[ModelPlan]:
    return {model.plan for model in catalog if model.entry.preload}


def _compare(old: Catalog, new: Catalog) -> Changes:
    both = old.models.keys() & new.models.keys()
    return Changes(
        tuple(sorted(new.models.keys() - old.models.keys())),
        tuple(sorted(model_id for model_id in both if old.models[model_id] != new.models[model_id])),
        tuple(sorted(old.models.keys() - new.models.keys())),
    )
