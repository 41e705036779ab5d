"""What a stored picture is called and what comes back with it.

Knows names and types; knows nothing of where pictures lie. We make every name, so a name of any other form
is simply not a picture: nothing a client writes ever becomes part of a path.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
_MIMES = {extension: mime for mime, extension in _EXTENSIONS.items()}
_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpg|webp)", re.ASCII)


@dataclass(frozen=True)
class PictureRow:
    """What is known of one picture without its bytes."""

    size: int  # bytes
    mime: str
    etag: str  # with its quotes, as HTTP sends it
    modified: float  # unix seconds


@dataclass(frozen=True)
class StoredPicture:
    """One picture as it was put."""

    data: bytes
    mime: str
    etag: str  # with its quotes, as HTTP sends it
    modified: float  # unix seconds


def new_name(mime: str) -> str:
    """A name that cannot be guessed, with the extension of its type."""
    return f"{secrets.token_hex(16)}.{_EXTENSIONS[mime]}"


def mime_of(name: str) -> str | None:
    """The type of a picture of this name; None if it is not one of our names."""
    match = _NAME.fullmatch(name)
    return _MIMES[match[1]] if match else None


def etag_of(name: str) -> str:
    """Names are random and a picture never changes, so the name identifies the bytes."""
    return f'"{name.partition(".")[0]}"'


def check_name(name: str, mime: str) -> None:
    """A caller's mistake, not a client's: only names from ``new_name`` are put."""
    if mime_of(name) != mime:
        raise ValueError("not a name from new_name() for this type")
