"""Pictures in an object store: S3 and whatever speaks its protocol.

Knows obstore and the AWS_* environment that it reads; knows nothing of URLs or expiry. A put is one request,
so it is atomic and leaves no half-finished multipart upload behind.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore as Backend
from obstore.store import S3Store

from server.errors import ConfigError, NotFound, ServerFault, StoreFull
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

_PAGE = 1000  # objects listed and deleted at a time, S3's own limit
_FULL = (
    "507 ",
    "StorageFull",
    "QuotaExceeded",
    "Insufficient Storage",
)  # how S3 servers say that they are full
_FAILURES = (BaseError, OSError)
_READ_ONLY = (PermissionDeniedError, UnauthenticatedError)  # what was put is still there, and more cannot be

log = logging.getLogger("darkroom.storage")


if TYPE_CHECKING:
    from obstore.store import S3Config  # a type only: obstore has no such name at run time


class ObjectStore:
    """A store in a bucket, which several processes and machines may share."""

    piece_bytes = 1024 * 1024  # each is a request of its own

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def put(self, name: str, data: bytes, mime: str) -> None:
        check_name(name, mime)
        try:
            await self._backend.put_async(name, data, attributes={"Content-Type": mime}, use_multipart=False)
        except _FAILURES as error:
            log.error("picture not stored", extra={"error": type(error).__name__})
            if any(sign in str(error) for sign in _FULL) or isinstance(error, _READ_ONLY):
                raise StoreFull(NOT_KEPT) from error
            raise ServerFault("The picture could not be stored.") from error

    async def get(self, name: str) -> StoredPicture | None:
        mime = mime_of(name)
        if mime is None:
            return None
        try:
            found = await self._backend.get_async(name)
            data = bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        except _FAILURES as error:
            raise ServerFault(NOT_READ) from error
        return StoredPicture(data, mime, etag_of(name), found.meta["last_modified"].timestamp())

    async def look(self, name: str) -> PictureRow | None:
        mime = mime_of(name)
        if mime is None:
            return None
        try:
            found = await self._backend.head_async(name)
        except FileNotFoundError:
            return None
        except _FAILURES as error:
            raise ServerFault(NOT_READ) from error
        return PictureRow(found["size"], mime, etag_of(name), found["last_modified"].timestamp())

    async def read(self, name: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        # One request a piece: a slow reader would let a single one time out, and what came with it would be kept.
        while start < stop:
            end = min(start + self.piece_bytes, stop)
            try:
                piece = bytes(await self._backend.get_range_async(name, start=start, end=end))
            except FileNotFoundError:  # swept meanwhile
                raise NotFound(NO_PICTURE) from None
            except _FAILURES as error:
                raise ServerFault(NOT_READ) from error
            if len(piece) != end - start:
                raise ServerFault(NOT_READ)
            yield piece
            start = end

    async def sweep(self, before_unix: float) -> int:
        deleted = 0
        try:
            async for page in self._backend.list(chunk_size=_PAGE):
                old = [
                    item["path"]
                    for item in page
                    if mime_of(item["path"]) and is_old(item["path"], item["last_modified"].timestamp(), before_unix)
                ]
                if old:
                    deleted += await self._delete(old)
        except _FAILURES as error:
            raise ServerFault("The picture store could not be swept.") from error
        return deleted

    async def _delete(self, names: list[str]) -> int:
        try:
            await self._backend.delete_async(names)
        except FileNotFoundError:
            return 0  # another process's sweep was first; what it left comes with the next
        return len(names)

    async def has_room(self, bytes_needed: int) -> bool:
        return True  # S3 has no way to ask


def open_s3(url: str, endpoint: str | None) -> ObjectStore:
    """The store at ``s3://bucket/prefix``; credentials and region come from AWS_* variables."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"DARKROOM_STORE (--store) = {url!r}: names no bucket")
    config: S3Config = {} if endpoint is None else {"endpoint": endpoint}
    try:
        backend = S3Store(
            bucket,
            prefix=prefix.strip("/") or None,
            config=config,
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(seconds=30),
            },
            # a finished picture waits for this: far less patience than obstore's three minutes
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        )
    except (*_FAILURES, ValueError) as error:
        raise ConfigError(f"DARKROOM_STORE (--store) = {url!r}: the S3 store cannot be opened") from error
    return ObjectStore(backend)
