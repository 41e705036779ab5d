"""The seal of a model folder, or of a single file: a manifest that says what it was when its owner sealed it.

Knows sizes and SHA-256; loads nothing, and knows no components: whoever asks names the files that loading reads. A seal
shows accidents (a copy that broke off, a disk that forgets, a file that somebody replaced). It is no defence against
whoever can write to the folder, as they can write the seal as well, unless its own SHA-256 was noted elsewhere.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts import headers

NAME = "darkroom-seal.json"  # beside model_index.json; of a single file: its name, a dot, and this
_FORMAT = 1
_MAX_BYTES = 16 * 1024 * 1024  # of a seal
_MAX_SMALL = 1024 * 1024  # a file up to this is read whole at each load: configurations, merges, most vocabularies
_CHUNK_BYTES = 1024 * 1024
_HEX = frozenset("0123456789abcdef")

Report = Callable[[int], None]  # of bytes that were read


@dataclass(frozen=True)
class SealedFile:
    """A file as it was sealed."""

    size: int  # bytes
    sha256: str
    header_sha256: str | None  # of a safetensors file: its length and its header, without the data


@dataclass(frozen=True)
class Seal:
    """What the files of a folder were, by their names in it."""

    files: Mapping[str, SealedFile]
    sha256: str  # of the manifest's own bytes

    @property
    def size(self) -> int:
        """Bytes of all of its files."""
        return sum(file.size for file in self.files.values())


class State(enum.StrEnum):
    """What has become of a file since it was sealed."""

    SAME = "same"
    DIFFERS = "differs"
    MISSING = "missing"
    ADDED = "added"


def make(folder: Path, names: Collection[str], report: Report) -> bytes:
    """The manifest of these files of a folder as they are now. Raises LoadRefused, OSError."""
    files = {}
    for name in sorted(names):
        path = folder / name
        before = path.stat()
        sha256 = _hash(path, report)
        header = _header_sha256(path, name) if name.endswith(".safetensors") else None
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise LoadRefused(f"{name} was written to while it was read; seal the folder once nobody writes to it")
        files[name] = {"size": after.st_size, "sha256": sha256, "header_sha256": header}
    return (json.dumps({"format": _FORMAT, "files": files}, indent=1) + "\n").encode()


def name_for(file: str) -> str:
    """The name of a single file's seal, which lies beside it."""
    return f"{file}.{NAME}"


def read(folder: Path, manifest: str = NAME) -> Seal | None:
    """The seal of a folder, or of a file in it; None where it has none. Raises LoadRefused for one that is damaged."""
    path = folder / manifest
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise LoadRefused(f"{manifest} is too large")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LoadRefused(f"{manifest} cannot be read: {error.strerror}") from error
    try:
        value = json.loads(data)
        if value["format"] != _FORMAT:
            raise LoadRefused(f"{manifest} was made by another version of Darkroom: seal the model again")
        files = {_name(name): _file(entry) for name, entry in value["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadRefused(f"{manifest} is damaged: seal the model again, or take it away") from error
    return Seal(files, hashlib.sha256(data).hexdigest())


def _name(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise ValueError("a name that leads out of the folder")
    return name


def _file(entry: Any) -> SealedFile:
    size, sha256, header = entry["size"], entry["sha256"], entry["header_sha256"]
    if type(size) is not int or size < 0 or not _is_sha256(sha256) or not (header is None or _is_sha256(header)):
        raise ValueError("no size and digest")
    return SealedFile(size, sha256, header)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


def compare(folder: Path, names: Collection[str], manifest: str = NAME) -> None:
    """Compare the files that loading reads with the seal, where there is one: sizes, headers of weights, and small
    files whole. Milliseconds. Raises LoadRefused naming the first file that is another."""
    seal = read(folder, manifest)
    if seal is None:
        return
    for name in sorted({*names, *seal.files}):
        said = _difference(folder, name, seal.files.get(name), name in names)
        if said is not None:
            helps = "`darkroom models verify` says what else does, and `darkroom models seal --again` seals a change"
            raise LoadRefused(f"{name} {said}: {helps}")


def _difference(folder: Path, name: str, sealed: SealedFile | None, read: bool) -> str | None:
    """In which way a file is not what was sealed, as far as a look without its weights tells."""
    path = folder / name
    if sealed is None:
        return "is not in the seal, and loading would read it"
    if not path.is_file():
        return "was sealed, and is missing"
    if not read:
        return "was sealed, and loading would not read it any more"
    size = path.stat().st_size
    if size != sealed.size:
        return f"has {size} bytes, and had {sealed.size} when it was sealed"
    if sealed.header_sha256 is not None and _header_sha256(path, name) != sealed.header_sha256:
        return "has another header than when it was sealed"
    if sealed.header_sha256 is None and size <= _MAX_SMALL and _hash(path, _unheard) != sealed.sha256:
        return "has another content than when it was sealed"
    return None


def verify(folder: Path, seal: Seal, names: Collection[str], report: Report) -> Iterator[tuple[str, State]]:
    """Read every byte, and say of each file what has become of it. ``names`` are those that loading reads now. Raises
    OSError."""
    for name in sorted({*names, *seal.files}):
        sealed, path = seal.files.get(name), folder / name
        if sealed is None:
            yield name, State.ADDED
        elif not path.is_file():
            yield name, State.MISSING
        elif path.stat().st_size != sealed.size:
            yield name, State.DIFFERS
        else:
            yield name, State.SAME if _hash(path, report) == sealed.sha256 else State.DIFFERS


def _hash(path: Path, report: Report) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            report(len(chunk))
    return digest.hexdigest()


def _header_sha256(path: Path, name: str) -> str:
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > headers.MAX_HEADER_BYTES:
            raise LoadRefused(f"{name} is not a safetensors file, or is truncated")
        return hashlib.sha256(prefix + file.read(length)).hexdigest()


def _unheard(read: int) -> None:
    pass
