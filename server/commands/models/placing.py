"""Whole files take their places in a model folder, by renames alone.

Knows a model folder, what a pull keeps beside it (``.pull/``) and the order in which names change; knows no hub.
Weights on a CPU are mapped from their files: one that is cut short or written anew ends the worker with SIGBUS, and one
that is renamed over stays what it was for whoever has it open. model_index.json goes first and comes back last, so that
a folder in which old and new files lie side by side is none that can be loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts import component, seal
from pipelines.facts.component import INDEX, TEMPLATES
from server.commands.failure import CommandFailed
from server.storage import atomic

_KEPT = ".pull"  # inside the folder, so that everything in it can be renamed into its place
_RECORD = "pulled.json"
_OF_THE_HUBS_TOOL = Path(".cache") / "huggingface" / "download"


@dataclass(frozen=True)
class Changed:
    """What a pull has changed in a folder."""

    placed: tuple[str, ...]
    removed: tuple[str, ...]  # they came by a pull, and the hub has them no more
    aside: tuple[str, ...]  # nobody knows where they came from, and loading would read them

    def __bool__(self) -> bool:
        return bool(self.placed or self.removed or self.aside)


class ModelFolder:
    """A model folder that one pull at a time writes to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder / _KEPT
        self.downloads = self.kept / "downloads"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else's meanwhile. Raises CommandFailed where another pull writes here, OSError."""
        self.downloads.mkdir(parents=True, exist_ok=True)
        opened = os.open(self.kept, os.O_RDONLY)
        try:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandFailed(f"{self.folder}: another pull is fetching this model") from None
            yield
        finally:
            os.close(opened)

    def refuse_links(self, names: Collection[str]) -> None:
        """Raise CommandFailed for a name that would be written outside of the folder, or cannot be a file's."""
        for name in names:
            path = self.folder / name
            for parent in path.relative_to(self.folder).parents:
                where = self.folder / parent
                if where != self.folder and where.is_symlink():
                    raise CommandFailed(f"{where} is a link: nothing is written elsewhere than in the model's folder")
                if where.exists() and not where.is_dir():
                    raise CommandFailed(f"{where} is a file, and the model has a folder of this name; take it away")
            if path.is_dir() and not path.is_symlink():
                raise CommandFailed(f"{path} is a folder, and the model has a file of this name; take it away")

    def place(self, staged: Mapping[str, Path], wanted: Collection[str], offered: Collection[str]) -> Changed:
        """Give whole files their names. ``wanted`` are the files that loading reads, and ``offered`` those that the hub
        has. Raises OSError; the folder cannot be loaded then until a pull has ended well."""
        removed = sorted(name for name in self._stale(wanted, offered) if (self.folder / name).is_file())
        foreign = self._foreign(staged, wanted, removed)
        if not staged and not removed and not foreign:
            return Changed((), (), ())
        if (self.folder / seal.NAME).exists():
            foreign.append(seal.NAME)  # of the files before
        index = self.folder / INDEX
        before = self.kept / INDEX
        if index.exists():
            index.replace(before)
        for name, path in staged.items():
            if name != INDEX:
                self._rename(path, self.folder / name)
        for name in removed:
            (self.folder / name).unlink()
        for name in foreign:
            self._rename(self.folder / name, self.kept / "aside" / name)
        self._rename(staged.get(INDEX, before), index)
        for name in {str(PurePosixPath(name).parent) for name in (*wanted, *removed)}:
            _sync_folder(self.folder / name)
        return Changed(tuple(sorted(staged)), tuple(removed), tuple(foreign))

    def end(self, record: Mapping[str, Any]) -> None:
        """Note what was pulled, and let go of what is left of downloads."""
        shutil.rmtree(self.downloads, ignore_errors=True)
        (self.kept / INDEX).unlink(missing_ok=True)
        atomic.write(self.kept / _RECORD, json.dumps(record, indent=1).encode(), mode=0o644)

    def _rename(self, path: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

    def _stale(self, wanted: Collection[str], offered: Collection[str]) -> set[str]:
        """Files that came by a pull and belong to an earlier revision. What the hub's own tool has fetched beside them,
        as somebody asked it to, stays as long as the hub has it."""
        with_tool = self.folder / _OF_THE_HUBS_TOOL
        suffix = ".metadata"
        theirs = {path.relative_to(with_tool).as_posix().removesuffix(suffix) for path in with_tool.rglob(f"*{suffix}")}
        return {name for name in (self._pulled() - set(wanted)) | (theirs - set(offered)) if _is_inside(name)}

    def _pulled(self) -> set[str]:
        try:
            files = json.loads((self.kept / _RECORD).read_text(encoding="utf-8"))["files"]
            return {name for name in files if isinstance(name, str)}
        except (OSError, ValueError, KeyError, TypeError):
            return set()

    def _foreign(self, staged: Mapping[str, Path], wanted: Collection[str], removed: Collection[str]) -> list[str]:
        """Files here that loading would read beside those that are wanted, or in their place."""

        def read(name: str) -> Any:
            return json.loads(staged.get(name, self.folder / name).read_text(encoding="utf-8"))

        names = {*self._names(), *wanted} - set(removed)
        found: list[str] = []
        while True:
            try:
                more = set(component.files_of_model(names, read)) - set(wanted)
            except (LoadRefused, ValueError, OSError):
                return found  # told by the check of the whole folder
            if not more:
                return found
            found += sorted(more)
            names -= more

    def _names(self) -> set[str]:
        """The files here, as far as loading looks for them."""
        folders = [path for path in self.folder.iterdir() if path.is_dir() and path.name != _KEPT]
        folders += [path / TEMPLATES for path in folders if (path / TEMPLATES).is_dir()]
        files = [path for folder in (self.folder, *folders) for path in folder.iterdir() if not path.is_dir()]
        return {path.relative_to(self.folder).as_posix() for path in files}


def _is_inside(name: str) -> bool:
    """Is it the name of a file inside a folder, however its parts are put together?"""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and not {"..", ""} & set(path.parts) and path.parts[0][0] != "."


def refuse_names(names: Collection[str], hub: str) -> None:
    """Raise CommandFailed for a file's name that leads out of the folder."""
    for name in names:
        if not _is_inside(name) or "\\" in name or "\0" in name:
            raise CommandFailed(f"{hub} names a file outside of its own folder: {name[:120]!r}")


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
