"""What was found of a model's weights on a device, kept in a folder, so that a restart need not find it anew.

Knows plans, files and versions; not what is found. There is one JSON file for each plan and device. It is believed
only of the same files (size, time of change, SHA-256 of the header), read with the same software on the same device.
One that cannot be read, or is of anything else, is as good as none; a folder that cannot be written keeps nothing for
the next process, and is no fault of the load.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import diffusers
import msgspec
import torch

from pipelines.errors import LoadRefused
from pipelines.facts import controls, model_files
from pipelines.facts.component import INDEX
from pipelines.plan import ModelPlan

log = logging.getLogger("darkroom.records")

_FORM = 1  # raised where what the checks find means something else than before
_MAX_BYTES = 1024 * 1024  # of a file here: each has some kilobytes
_MAX_FILES = 256  # of plans that may long be gone: those used last stay
_LEFTOVER_S = 3600.0  # what is still not renamed after this never will be
_MAX_HEADER_BYTES = 100 * 1000 * 1000
_START_BYTES = 1024 * 1024  # of a file that does not say how long its header is

T = TypeVar("T")


class _File(msgspec.Struct, frozen=True):
    """A file of weights or a configuration, as it was."""

    size: int  # bytes; -1: there was none
    changed_ns: int
    head: str  # SHA-256 of a weight file's header, of all of a configuration


class _Identity(msgspec.Struct, frozen=True):
    """What must be the same for what was found to hold."""

    form: int
    plan: str  # its mark
    files: dict[str, _File]  # by path
    darkroom: str
    torch: str
    diffusers: str
    device: str


class _Kept(msgspec.Struct, frozen=True):
    """The file's content."""

    model: str  # for people: the key of the plan
    identity: _Identity
    found: dict[str, msgspec.Raw]  # by what it is
    digest: str = ""  # SHA-256 of the rest

    def sealed(self) -> _Kept:
        rest = msgspec.json.encode(msgspec.structs.replace(self, digest=""))
        return msgspec.structs.replace(self, digest=hashlib.sha256(rest).hexdigest())


class Records:
    """All that is kept in ``folder``, for one device; without a folder, for as long as the process lives."""

    def __init__(self, folder: Path | None, *, darkroom: str, device: str) -> None:
        self._folder = folder
        self._darkroom = darkroom
        self._device = device
        self._kept: dict[ModelPlan, _Kept] = {}  # of this process: also where nothing can be written

    def of(self, plan: ModelPlan) -> Record:
        """What is kept of a plan, with its files as they are now: asked for before they are loaded, so that nothing is
        kept of files that were exchanged meanwhile."""
        return Record(self, plan, self._identify(plan))

    def forget_all_but(self, plans: Collection[ModelPlan]) -> None:
        """Forget what this process knows of other plans. Their files stay, until there are too many."""
        for plan in self._kept.keys() - set(plans):
            del self._kept[plan]

    def _identify(self, plan: ModelPlan) -> _Identity | None:
        try:
            files = {str(path): _described(path, whole=whole) for path, whole in _files(plan)}
        except (LoadRefused, OSError):
            return None  # loading says what is wrong
        return _Identity(
            _FORM, plan.mark, files, self._darkroom, str(torch.__version__), str(diffusers.__version__), self._device
        )

    def _read(self, plan: ModelPlan, identity: _Identity) -> _Kept | None:
        kept = self._kept.get(plan) or self._read_file(plan)
        return kept if kept is not None and kept.identity == identity else None

    def _read_file(self, plan: ModelPlan) -> _Kept | None:
        path = self._path(plan)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                kept = msgspec.json.decode(file.read(_MAX_BYTES), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            log.warning("record cannot be read", extra={"file": str(path), "error": type(error).__name__})
            return None
        if kept != kept.sealed():
            log.warning("record cannot be read", extra={"file": str(path), "error": "it is damaged"})
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used last
        return kept

    def _write(self, plan: ModelPlan, identity: _Identity, name: str, value: object) -> None:
        kept = self._read(plan, identity)
        found = {} if kept is None else dict(kept.found)
        found[name] = msgspec.Raw(msgspec.json.encode(value))
        self._kept[plan] = _Kept(plan.key, identity, found).sealed()
        path = self._path(plan)
        if path is None:
            return
        try:
            _write(path, msgspec.json.encode(self._kept[plan]))
            _prune(path.parent)
        except OSError as error:
            log.warning("record cannot be written", extra={"file": str(path), "error": error.strerror})

    def _path(self, plan: ModelPlan) -> Path | None:
        device = hashlib.sha256(self._device.encode()).hexdigest()[:8]
        return None if self._folder is None else self._folder / f"{plan.mark}-{device}.json"


class Record:
    """What is kept of one plan and its files."""

    def __init__(self, records: Records, plan: ModelPlan, identity: _Identity | None) -> None:
        self._records = records
        self._plan = plan
        self._identity = identity

    def get(self, name: str, kind: type[T]) -> T | None:
        """What was found under this name; None where nothing was, or is no longer believed."""
        kept = None if self._identity is None else self._records._read(self._plan, self._identity)
        if kept is None or name not in kept.found:
            return None
        try:
            return msgspec.json.decode(kept.found[name], type=kind)
        except (ValueError, RecursionError):
            return None

    def keep(self, name: str, value: object) -> None:
        """Keep this, beside what is kept under other names. ``value`` is what msgspec can write."""
        if self._identity is not None:
            self._records._write(self._plan, self._identity, name, value)


def _files(plan: ModelPlan) -> Iterator[tuple[Path, bool]]:
    """The files that a plan's model is read from, and whether each counts whole: weights are told by their headers."""
    folder = Path(plan.folder)
    yield folder / INDEX, True
    for part in model_files.parts(plan):
        yield from ((part.folder / name, True) for name in part.files.configs)
        yield from ((path, False) for path in part.weights)
        if part.vocabulary is not None:
            yield part.vocabulary, True
    yield from ((Path(adapter.path), False) for adapter in plan.adapters)
    yield from ((Path(embedding.path), False) for embedding in plan.embeddings)
    for part in map(controls.part, plan.controls):
        yield from ((part.folder / name, True) for name in part.files.configs)
        yield from ((path, False) for path in part.weights)


def _described(path: Path, *, whole: bool) -> _File:
    try:
        status = path.stat()
        with path.open("rb") as file:
            start = file.read(_START_BYTES if whole or path.suffix != ".safetensors" else 8)
            if path.suffix == ".safetensors" and len(start) == 8:
                start += file.read(min(int.from_bytes(start, "little"), _MAX_HEADER_BYTES))
    except FileNotFoundError:
        return _File(-1, 0, "")
    # A configuration that is fetched anew, or mounted elsewhere, is the same one.
    changed_ns = 0 if whole else status.st_mtime_ns
    return _File(status.st_size, changed_ns, hashlib.sha256(start).hexdigest())


def _write(path: Path, data: bytes) -> None:
    """Write a file beside its place, and rename it. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(file)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Let go of what was not used for longest, and of what crashes left. Raises OSError."""
    old = [path for _, path in sorted(_changed(folder.glob("*.json")))[:-_MAX_FILES]]
    old += [path for changed_s, path in _changed(folder.glob(".*.part")) if time.time() - changed_s > _LEFTOVER_S]
    for path in old:
        path.unlink(missing_ok=True)


def _changed(paths: Iterable[Path]) -> Iterator[tuple[float, Path]]:
    """When each was changed last; without those that another process has renamed or let go of meanwhile."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path.stat().st_mtime, path
