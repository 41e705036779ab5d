"""The child of ``darkroom check`` in this process: importing torch anew takes seconds a test."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from server.worker.child import check as child


class NearChild:
    """As much of a process as the command asks of it."""

    returncode = 0

    def __init__(self) -> None:
        self.stdin = _Asked()

    def __enter__(self) -> NearChild:
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def stdout(self) -> Iterator[str]:
        """Not before it is read: it is asked meanwhile."""
        said = io.StringIO()
        child.answer(json.loads(self.stdin.text), said)
        yield from said.getvalue().splitlines()


class _Asked(io.StringIO):
    text = ""

    def close(self) -> None:
        self.text = self.getvalue()
        super().close()
