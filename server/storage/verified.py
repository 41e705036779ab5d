"""The last results of verifying sealed models, kept in the data folder.

Knows one small file for each folder or file that has a seal; knows neither seals' contents nor HTTP. A result is of
one seal: once a folder is sealed anew, nobody has verified it. A file that cannot be read is a result that nobody
knows.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from server.storage import atomic

_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Verified:
    """When all bytes of a sealed folder were read last, and whether they were those that were sealed."""

    at: int  # unix seconds
    intact: bool


class VerifiedFolders:
    """The results of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "seals"

    def note(self, folder: str, seal: str, *, intact: bool) -> None:
        """Keep a result. ``seal`` is the SHA-256 of the manifest. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        result = {"folder": folder, "seal": seal, "at": int(time.time()), "intact": intact}
        atomic.write(self.path(folder), json.dumps(result).encode())

    def last(self, folder: str, seal: str) -> Verified | None:
        """The last result for a folder with this seal; None where there is none."""
        try:
            with self.path(folder).open("rb") as file:
                result = json.loads(file.read(_MAX_BYTES))
            at, intact = result["at"], result["intact"]
            same = (result["folder"], result["seal"]) == (folder, seal)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return Verified(at, intact) if same and type(at) is int and type(intact) is bool else None

    def path(self, folder: str) -> Path:
        """The file of a folder's result, or of a single file's."""
        return self._folder / f"{hashlib.sha256(folder.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
