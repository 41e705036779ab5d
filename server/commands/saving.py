"""Where finished pictures go: names that say prompt and seed, and no file is ever overwritten.

Knows names and folders; knows nothing of servers or terminals.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from server.errors import ConfigError

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_OTHER_FORMATS = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jxl", ".svg", ".tif", ".tiff")
_MAX_WORDS = 48  # characters of the prompt in a name


@dataclass(frozen=True)
class Destination:
    """A folder, or the file of one picture."""

    path: Path

    @property
    def format(self) -> str | None:
        """The format that the file's ending names; None for a folder."""
        return FORMATS.get(self.path.suffix.lower()) if not self.path.is_dir() else None

    def check(self, n: int) -> None:
        """Refuse, before anything is drawn, what could not be kept. Raises ConfigError."""
        if self.format is None:
            if self.path.exists() and not self.path.is_dir():
                raise ConfigError(f"--out {self.path}: is a file; name a folder, or a new .png, .jpg or .webp file")
            if self.path.suffix.lower() in _OTHER_FORMATS and not self.path.exists():
                raise ConfigError(f"--out {self.path}: pictures are .png, .jpg or .webp")
        elif n > 1:
            raise ConfigError(f"--out {self.path}: names one file for {n} pictures; name a folder")
        elif self.path.exists():
            raise ConfigError(f"--out {self.path}: exists already, and nothing is overwritten")
        there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"--out {self.path}: nothing can be written in {there}")

    def keep(self, data: bytes, *, prompt: str, seed: int, format_: str) -> Path:
        """Write one picture. Raises ConfigError when it cannot be written."""
        named = self.path if self.format is not None else self.path / f"{slug(prompt)}-seed{seed}{ENDINGS[format_]}"
        try:
            named.parent.mkdir(parents=True, exist_ok=True)
            return _write_new(named, data)
        except OSError as error:
            raise ConfigError(f"{named}: cannot be written: {error.strerror}") from None


def slug(prompt: str) -> str:
    """The first words of a prompt as part of a file's name, in whatever script they are."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", prompt).lower())
    name = "-".join(words)
    if len(name) > _MAX_WORDS:
        name = name[: _MAX_WORDS + 1].rpartition("-")[0] or name[:_MAX_WORDS]
    return name or "picture"


def _write_new(path: Path, data: bytes) -> Path:
    number = 1
    while True:
        candidate = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            file = candidate.open("xb")  # exclusively: two commands may run in one folder
        except FileExistsError:
            number += 1
            continue
        try:
            with file:
                file.write(data)
        except OSError:
            candidate.unlink(missing_ok=True)  # half a picture is none
            raise
        return candidate
