"""A process of ours that has torch, which a command asks one thing: the front has none.

Knows pipes, JSON in lines, and what a process said last before it died; knows nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from server import interpreter

_OFFLINE = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"), "1"),
    "PYTHONWARNINGS": "ignore",
}
_MAX_LAST_BYTES = 4096
_MAX_LAST_LINES = 8
_UNPRINTABLE = re.compile(r"[^\t\x20-\x7e\xa0-\U0010ffff]")


class Child:
    """The process. It ends with the block that it is used in, at the latest."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        self._process = subprocess.Popen(  # noqa: S603, a module of ours
            interpreter.python(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**interpreter.environment(os.environ if environment is None else environment), **_OFFLINE},
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        with self._process:  # closes its pipes, and waits
            pass
        self._errors.close()

    def answers(self, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What it says, in JSON objects, until it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            json.dump(asked, self._process.stdin)
            self._process.stdin.close()
        for line in self._process.stdout:
            yield json.loads(line)
        self._process.wait()

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.returncode

    def last_words(self) -> str:
        """The last lines that it wrote on standard error, which is where a process that dies says why."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _MAX_LAST_BYTES))
        lines = self._errors.read().decode("utf-8", "replace").splitlines()[-_MAX_LAST_LINES:]
        return "\n".join(f"  {_UNPRINTABLE.sub('?', line)}" for line in lines if line.strip())


def start(module: str, environment: Mapping[str, str] | None = None) -> Child:
    """Start one of our modules, in this environment or in ours."""
    return Child(module, environment)
