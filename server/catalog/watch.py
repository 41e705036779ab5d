"""What is on the disk now, as stamps: has models.yaml, or what it names and the catalog waits for, changed?

Knows names, sizes and times; reads no content. Asked for again and again, as no notification crosses a bind mount or
a network file system. Links are followed, so that a link that is turned to another file counts as a change.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

WEIGHTS_SUFFIX = ".safetensors"
_MAX_AWAITED = 1000  # files of a folder: whoever names another folder as a model's does not have all of it read

FileStamp = tuple[int, int, int, int]  # mtime_ns, size, inode, device
Stamps = dict[Path, FileStamp | None]


def stamps(file: Path, folders: Iterable[Path], awaited: Iterable[Path] = ()) -> Stamps:
    """The stamps of models.yaml, of all files of weights in these folders, and of what is ``awaited``: files, and the
    files of models' folders."""
    weights = (path for folder in folders for path in weights_in(folder))
    return {path: file_stamp(path) for path in (file, *weights, *(each for path in awaited for each in _whole(path)))}


def has_settled(known: Stamps, before: Stamps, now: Stamps) -> bool:
    """Has a file changed since it was ``known``, and been the same for two looks? Others may still be written."""
    return any(
        before.get(path) == now.get(path) != known.get(path) for path in known.keys() | before.keys() | now.keys()
    )


def weights_in(folder: Path) -> list[Path]:
    """The files of weights in a folder, by name; none where it cannot be read. Hidden ones are other programs' own."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == WEIGHTS_SUFFIX and path.name[0] != ".")
    except OSError:
        return []


def _whole(path: Path) -> Iterable[Path]:
    """A file, or one that is not there; of a model's folder its files, and those of its components."""
    if not path.is_dir():
        return (path,)
    own = _visible(path)
    inside = (each for folder in own if folder.is_dir() for each in _visible(folder))
    return (each for each in itertools.islice(itertools.chain(own, inside), _MAX_AWAITED) if not each.is_dir())


def _visible(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name[0] != "."]
    except OSError:
        return []


def file_stamp(path: Path) -> FileStamp | None:
    """The stamp of one file; None for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev
