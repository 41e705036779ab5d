"""Processes that end with the one that started them, however that one ends.

Knows processes and signals. A bench that is cut off must leave no server behind: it would hold the device's memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
_END_S = 10.0


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this process as an exception does: what it started is ended on the way out."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), leave)


@contextlib.contextmanager
def process(
    arguments: list[str],
    *,
    cwd: Path,
    environ: dict[str, str] | None = None,
    stderr: IO[str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A Python process in a process group of its own. When the block ends, the group is asked to end, and killed."""
    options: dict[str, Any] = {"preexec_fn": _end_with(os.getpid())} if sys.platform == "linux" else {}
    started = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        stderr=stderr,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def _end_with(parent: int) -> Any:
    """What a child does first: it asks the kernel for SIGTERM when its parent is gone, killed too."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
