"""Files that appear whole or not at all.

Knows temporary files, fsync, renames and hard links; knows nothing of what is in a file. The data is written to a
temporary file beside the target and synced; the target then gets its name in one step, and the folder is synced. A
crash at any moment leaves the old file or the new one, and at most a leftover that ``target_of`` knows by its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{16}\.part")


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file, for its owner alone unless ``mode`` says otherwise, in place of the one that has this name, if any.
    Raises OSError."""
    with _temporary(path, data, mode) as temporary:
        temporary.replace(path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def replacement(path: Path, data: bytes) -> Iterator[Path]:
    """Write a file in the place of one, with its mode, once whoever looks at the new one inside is done: what is raised
    there leaves the old one. Raises OSError."""
    with _temporary(path, data) as temporary:
        shutil.copymode(path, temporary)
        yield temporary
        temporary.replace(path)
    _sync_folder(path.parent)


def create(path: Path, data: bytes) -> bool:
    """Write a file for its owner alone if none has this name; False if one has. Raises OSError.

    Of processes that do so at once, one is told True, and what it wrote stays.
    """
    with _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)  # unlike a rename, a link never replaces a file
        except FileExistsError:
            return False
    _sync_folder(path.parent)
    return True


def target_of(name: str) -> str | None:
    """The name of the file that a leftover was to become; None if the name is no leftover's."""
    match = _LEFTOVER.fullmatch(name)
    return match[1] if match else None


@contextlib.contextmanager
def _temporary(path: Path, data: bytes, mode: int = 0o600) -> Iterator[Path]:
    """The data in a synced file beside ``path``. It is gone at the end, unless it was renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)  # the new name, too, must outlive a power cut
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync folders
            raise
    finally:
        os.close(opened)
