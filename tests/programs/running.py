"""A program that serves HTTP on a port of its own: started, up, and ended."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.running import eventually


@contextmanager
def serving(
    command: Callable[[int], Sequence[str]],
    *,
    folder: Path,
    alive: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    within_s: float,
) -> Iterator[httpx.Client]:
    """A client of what ``command`` starts for a port; its home and its log are in ``folder``, no proxy or key of the
    user's is in its environment. It is up once ``alive``, a path, answers 200."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    log = folder / "log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command(port),
            cwd=cwd or folder,
            env={**clean, "HOME": str(folder), **(environment or {})},
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)

    def up() -> bool:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        try:
            return client.get(alive).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        eventually(up, within_s=within_s, every_s=0.5)
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()
