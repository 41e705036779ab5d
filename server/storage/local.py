"""Pictures in a folder.

Knows files and free space; knows nothing of URLs. A picture is written atomically: a crash at any moment leaves the
whole picture or none, and at most a leftover that the sweep removes. The folder is made again where it has been
removed, as programs that clean up do; where it has become read-only or a file, nothing can be kept, as on a full disk.
All file work runs in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from server.errors import ConfigError, NotFound, ServerFault, StoreFull
from server.storage import atomic
from server.storage.picture import (
    NO_PICTURE,
    NOT_KEPT,
    NOT_READ,
    PictureRow,
    StoredPicture,
    check_name,
    etag_of,
    is_old,
    mime_of,
)

_RESERVE = 1024 * 1024  # bytes left free: a file system has costs of its own
# Nothing can be kept, and a repeat would not help: full, read-only, or no folder of ours any more.
_NO_ROOM = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP),
}
_WRITING_S = 60.0  # for so long somebody may still be writing what looks like a leftover
_NO_PICTURE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}

log = logging.getLogger("darkroom.storage")


class LocalStore:
    """A store in one folder, which several processes may share."""

    piece_bytes = 64 * 1024

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._make_folder()
            writable = os.access(folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot keep pictures here ({error.strerror})") from error
        if not writable:
            raise ConfigError(f"{folder}: cannot keep pictures here (not writable)")

    async def put(self, name: str, data: bytes, mime: str) -> None:
        check_name(name, mime)
        try:
            await asyncio.to_thread(self._put, name, data)
        except OSError as error:
            _log("picture not stored", error)
            if error.errno in _NO_ROOM:
                raise StoreFull(NOT_KEPT) from error
            raise ServerFault("The picture could not be stored.") from error

    async def get(self, name: str) -> StoredPicture | None:
        mime = mime_of(name)
        if mime is None:
            return None
        try:
            found = await asyncio.to_thread(self._get, name)
        except OSError as error:
            _log("picture not read", error)
            raise ServerFault(NOT_READ) from error
        if found is None:
            return None
        data, modified = found
        return StoredPicture(data, mime, etag_of(name), modified)

    async def look(self, name: str) -> PictureRow | None:
        mime = mime_of(name)
        if mime is None:
            return None
        try:
            status = await asyncio.to_thread(self._status, name)
        except OSError as error:
            raise ServerFault(NOT_READ) from error
        return None if status is None else PictureRow(status.st_size, mime, etag_of(name), status.st_mtime)

    async def read(self, name: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        while start < stop:
            try:
                piece = await asyncio.to_thread(self._piece, name, start, min(self.piece_bytes, stop - start))
            except OSError as error:
                _log("picture not read", error)
                raise ServerFault(NOT_READ) from error
            if not piece:  # swept meanwhile
                raise NotFound(NO_PICTURE)
            yield piece
            start += len(piece)

    async def sweep(self, before_unix: float) -> int:
        return await asyncio.to_thread(self._sweep, before_unix)

    async def has_room(self, bytes_needed: int) -> bool:
        try:
            return await asyncio.to_thread(self._has_room, bytes_needed)
        except OSError as error:
            _log("no room for pictures", error)
            if error.errno in _NO_ROOM:
                return False
            raise ServerFault("The store cannot be reached.") from error

    def _put(self, name: str, data: bytes) -> None:
        try:
            atomic.write(self._folder / name, data)
        except FileNotFoundError:
            self._make_folder()
            atomic.write(self._folder / name, data)

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _get(self, name: str) -> tuple[bytes, float] | None:
        file = self._open(name)
        if file is None:
            return None
        with os.fdopen(file, "rb") as opened:
            return opened.read(), os.fstat(file).st_mtime

    def _status(self, name: str) -> os.stat_result | None:
        file = self._open(name)
        if file is None:
            return None
        try:
            return os.fstat(file)
        finally:
            os.close(file)

    def _piece(self, name: str, start: int, size: int) -> bytes:
        """Some of a picture. Its file is open for this moment only: a slow reader has no descriptor but its socket."""
        file = self._open(name)
        if file is None:
            return b""
        try:
            return os.pread(file, size, start)
        finally:
            os.close(file)

    def _open(self, name: str) -> int | None:
        """A descriptor of a picture's file; None if there is none."""
        try:
            # no symlink is ours; and opening a pipe must not wait for its writer
            file = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _NO_PICTURE:
                return None
            raise
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return None
        return file

    def _sweep(self, before_unix: float) -> int:
        deleted = 0
        with contextlib.ExitStack() as stack:
            try:
                entries = stack.enter_context(os.scandir(self._folder))
            except FileNotFoundError:
                return 0  # the next put makes the folder again
            for entry in entries:
                name = atomic.target_of(entry.name) or entry.name
                if mime_of(name) is None:
                    continue  # not ours
                leftover = name != entry.name
                try:
                    put_unix = entry.stat(follow_symlinks=False).st_mtime
                    before = max(before_unix, time.time() - _WRITING_S)
                    if put_unix < before if leftover else is_old(name, put_unix, before_unix):
                        Path(entry).unlink()
                        deleted += not leftover  # which is no picture
                except OSError:
                    continue  # gone already, by another process's sweep; or not ours to delete
        return deleted

    def _has_room(self, bytes_needed: int) -> bool:
        if not self._folder.is_dir():
            self._make_folder()
        space = os.statvfs(self._folder)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            code = errno.EROFS if space.f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(code, os.strerror(code))
        return space.f_bavail * space.f_frsize >= bytes_needed + _RESERVE


def _log(message: str, error: OSError) -> None:
    code = errno.errorcode.get(error.errno or 0, "unknown")
    log.error(message, extra={"errno": code, "reason": error.strerror or type(error).__name__})
