"""Pictures in a folder.

Knows files and free space; knows nothing of URLs or expiry. A picture is written atomically: a crash at any moment
leaves the whole picture or none, and at most a leftover that the sweep removes. All file work runs in threads.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

from server.errors import ConfigError, ServerFault, StoreFull
from server.storage import atomic
from server.storage.picture import PictureRow, StoredPicture, check_name, etag_of, mime_of

_RESERVE = 1024 * 1024  # bytes left free: a file system has costs of its own
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class LocalStore:
    """A store in one folder, which several processes may share."""

    piece_bytes = 64 * 1024

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            writable = os.access(folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot keep pictures here ({error.strerror})") from error
        if not writable:
            raise ConfigError(f"{folder}: cannot keep pictures here (not writable)")

    async def put(self, name: str, data: bytes, mime: str) -> None:
        check_name(name, mime)
        try:
            await asyncio.to_thread(atomic.write, self._folder / name, data)
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFull("There is no room to store the picture; ask for b64_json.") from error
            raise ServerFault("The picture could not be stored.") from error

    async def get(self, name: str) -> StoredPicture | None:
        mime = mime_of(name)
        if mime is None:
            return None
        try:
            found = await asyncio.to_thread(self._get, name)
        except OSError as error:
            raise ServerFault("The picture could not be read.") from error
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
            raise ServerFault("The picture could not be read.") from error
        return None if status is None else PictureRow(status.st_size, mime, etag_of(name), status.st_mtime)

    async def read(self, name: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        while start < stop:
            try:
                piece = await asyncio.to_thread(self._piece, name, start, min(self.piece_bytes, stop - start))
            except OSError as error:
                raise ServerFault("The picture could not be read.") from error
            if not piece:  # swept meanwhile
                raise ServerFault("The picture could not be read.")
            yield piece
            start += len(piece)

    async def sweep(self, before_unix: float) -> int:
        return await asyncio.to_thread(self._sweep, before_unix)

    async def has_room(self, bytes_needed: int) -> bool:
        try:
            return await asyncio.to_thread(self._has_room, bytes_needed)
        except OSError as error:
            raise ServerFault("The store cannot be reached.") from error

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
            if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
                return None
            raise
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return None
        return file

    def _sweep(self, before_unix: float) -> int:
        deleted = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = atomic.target_of(entry.name) or entry.name
                if mime_of(name) is None:
                    continue  # not ours
                try:
                    if entry.stat(follow_symlinks=False).st_mtime < before_unix:
                        Path(entry).unlink()
                        deleted += name == entry.name  # a leftover is no picture
                except OSError:
                    continue  # gone already, by another process's sweep; or not ours to delete
        return deleted

    def _has_room(self, bytes_needed: int) -> bool:
        space = os.statvfs(self._folder)
        return space.f_bavail * space.f_frsize >= bytes_needed + _RESERVE
