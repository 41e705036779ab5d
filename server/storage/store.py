"""The store of finished pictures: what every kind offers, and how the setting chooses one.

Knows the operations; knows neither files nor object stores, which have a module each.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

from server.errors import ConfigError
from server.storage.local import LocalStore
from server.storage.picture import PictureRow, StoredPicture, new_name

__all__ = ["LocalStore", "PictureRow", "Store", "StoredPicture", "new_name", "open_store"]


class Store(Protocol):
    """Keeps pictures. Safe for many tasks at once; a picture is whole or absent, never torn."""

    piece_bytes: int  # what ``read`` has in memory at a time

    async def put(self, name: str, data: bytes, mime: str) -> None:
        """Keep a picture under a name from ``new_name``. Raises StoreFull, or ServerFault."""

    async def get(self, name: str) -> StoredPicture | None:
        """The picture, or None if there is none of that name, whatever the name looks like."""

    async def look(self, name: str) -> PictureRow | None:
        """What ``get`` would find, without its bytes."""

    def read(self, name: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """A picture's bytes from ``start`` to before ``stop``, in pieces that are read as they are asked for.

        Raises NotFound when the picture goes meanwhile, and ServerFault.
        """

    async def sweep(self, before_unix: float) -> int:
        """Delete what has expired, and what was put before that time without an expiry in its name; how many pictures
        were deleted."""

    async def has_room(self, bytes_needed: int) -> bool:
        """Would so many bytes fit now? Asked before device work; a put may still find the store full."""


def open_store(store_setting: str, data_dir: Path, s3_endpoint: str | None) -> Store:
    """The store that the ``store`` setting names. Raises ConfigError."""
    if store_setting == "local":
        return LocalStore(data_dir / "pictures")
    if not store_setting.startswith("s3://"):
        raise ConfigError(f"DARKROOM_STORE (--store) = {store_setting!r}: must be local or s3://bucket/prefix")
    from server.storage.objects import open_s3  # loads obstore, 40 MB that a local store does without

    return open_s3(store_setting, s3_endpoint)
