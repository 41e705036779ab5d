"""Files of this machine that an agent may have edited: pictures in folders that the user has opened, and no others.

Knows paths and how picture files begin. An agent reads texts of strangers, who may talk it into naming any path. So a
path counts where it really is, after every link; only what begins like a picture is read; and what the file is said to
be when that fails tells nothing of files elsewhere.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from server.agents.refusals import CallFailed

MAX_BYTES: Final = 64 * 1024 * 1024  # of a file; a server takes 20 MiB unless it is told otherwise
_BEGINNINGS: Final = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"))


class Folders:
    """The folders that are open. Without any, no path is read."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folder.expanduser().resolve() for folder in folders)

    def read(self, path: str, argument: str) -> str:
        """The picture at ``path`` as a data: URL. Raises CallFailed."""
        if not self._folders:
            raise CallFailed(
                f"{argument}: no folder is open to this tool. The user can open one: `darkroom mcp --folder DIR`."
                " Until then, send images as a URL or base64."
            )
        data = self._bytes(self._inside(path, argument), argument)
        kind = next((kind for beginning, kind in _BEGINNINGS if data.startswith(beginning)), None)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            kind = "webp"
        if kind is None:
            raise CallFailed(f"{argument}: is not a PNG, JPEG or WebP file.")
        return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"

    def _inside(self, path: str, argument: str) -> Path:
        """Where the path really leads. A relative one is one of the first folder."""
        named = ", ".join(map(str, self._folders))
        outside = CallFailed(f"{argument}: there is no such file in the folders open to this tool: {named}.")
        try:
            real = (self._folders[0] / Path(path).expanduser()).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # not there, a NUL, a home that nobody has
            raise outside from None
        if not any(real.is_relative_to(folder) for folder in self._folders):
            raise outside
        return real

    def _bytes(self, path: Path, argument: str) -> bytes:
        try:
            # What stands there may be a pipe, which would be waited for, or a link by now.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise CallFailed(f"{argument}: is not a file.")
                if status.st_size > MAX_BYTES:
                    raise CallFailed(f"{argument}: has more than {MAX_BYTES} bytes.")
                return file.read(MAX_BYTES + 1)[:MAX_BYTES]
        except OSError as error:
            raise CallFailed(f"{argument}: cannot be read: {error.strerror}.") from None
