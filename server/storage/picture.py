"""What a stored picture is called and what comes back with it.

Knows names and types; knows nothing of where pictures lie. We make every name, so a name of any other form
is simply not a picture: nothing a client writes ever becomes part of a path.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass

NOT_KEPT = "The server cannot keep the picture now; response_format b64_json still works."
NOT_READ = "The picture could not be read."
NO_PICTURE = "There is no such picture; it may have been deleted."
_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
_MIMES = {extension: mime for mime, extension in _EXTENSIONS.items()}
_NAME = re.compile(r"[0-9a-f]{32}(?:-([0-9]{1,12}))?\.(png|jpg|webp)", re.ASCII)


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


def new_name(mime: str, expires: int | None = None) -> str:
    """A name that cannot be guessed, with the extension of its type; ``expires`` (unix seconds) is part of it.

    So every server that sweeps a store knows how long each picture is to stay, whoever put it there. Names of older
    versions have no expiry: those pictures stay as long as the server that sweeps would keep its own.
    """
    until = "" if expires is None else f"-{expires}"
    return f"{secrets.token_hex(16)}{until}.{_EXTENSIONS[mime]}"


def mime_of(name: str) -> str | None:
    """The type of a picture of this name; None if it is not one of our names."""
    match = _NAME.fullmatch(name)
    return _MIMES[match[2]] if match else None


def is_old(name: str, put_unix: float, before_unix: float) -> bool:
    """Is it time to delete a picture of ours? Its own expiry decides; without one, whether it was put before then."""
    match = _NAME.fullmatch(name)
    if match is not None and match[1]:
        return int(match[1]) <= time.time()
    return put_unix < before_unix


def etag_of(name: str) -> str:
    """Names are random and a picture never changes, so the name identifies the bytes."""
    return f'"{name.partition(".")[0]}"'


def check_name(name: str, mime: str) -> None:
    """A caller's mistake, not a client's: only names from ``new_name`` are put."""
    if mime_of(name) != mime:
        raise ValueError("not a name from new_name() for this type")
