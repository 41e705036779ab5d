"""``darkroom demo``: start a server as a user would, make pictures through HTTP, show where they are, stop it.

Knows the command line and the API from outside; imports nothing of the server that it starts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import IO, Any

from server.errors import ConfigError

# The first worked example of the API's specification.
PROMPT = "A cute cat programming on a laptop, digital art style"
_START_TIMEOUT_S = 120.0


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("demo", help="start a server, make pictures through it, stop it")
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--out", type=Path, default=Path("out"), help="where to put the pictures (default: out)")
    add("-n", type=int, default=2, choices=range(1, 11), metavar="N", help="pictures, 1..10 (default: 2)")


def run(arguments: Namespace) -> int:
    return demo(arguments.out, arguments.n)


def demo(out: Path, n: int) -> int:
    """Make ``n`` pictures in folder ``out``. Returns the exit code."""
    try:
        from openai import OpenAI
    except ImportError:
        raise ConfigError("the demo speaks through the openai client: pip install 'darkroom[demo]'") from None
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    started = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with tempfile.TemporaryDirectory(prefix="darkroom-demo-") as data_dir, Progress(*columns) as progress:
        task = progress.add_task("starting the server", total=None)
        process = _start(Path(data_dir))
        try:
            base = _address(process.stderr)
            progress.update(task, description=f"loading the model ({base})")
            _wait_until_ready(base, process)
            ready_s = time.monotonic() - started
            progress.update(task, description=f"drawing {n} × “{PROMPT}”")
            client = OpenAI(base_url=f"{base}/api", api_key="none-needed-on-loopback")
            asked = time.monotonic()
            answer = client.images.generate(prompt=PROMPT, n=n)
            drawn_s = time.monotonic() - asked
            paths = _save(out, [picture.url or "" for picture in answer.data or ()])
        finally:
            process.terminate()
            process.wait(timeout=60)
    for path in paths:
        print(path)
    print(f"server ready after {ready_s:.1f} s; {n} pictures in {drawn_s:.2f} s, {drawn_s / n:.2f} s each")
    return 0


def _start(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603, our own command
        [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(data_dir)],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def _address(stderr: IO[str] | None) -> str:
    """The address from the line that the server prints first."""
    assert stderr is not None
    said = []
    for line in stderr:
        match = re.search(r"listens on (http://\S+)", line)
        if match:
            _drain(stderr)
            return match[1]
        said.append(line)
    raise ConfigError(f"the server did not start: {''.join(said).strip()}")


def _drain(stderr: IO[str]) -> None:
    """Keep reading the server's log, so that a full pipe never stops it."""
    threading.Thread(target=lambda: [None for _ in stderr], daemon=True).start()


def _wait_until_ready(base: str, process: subprocess.Popen[str]) -> None:
    import httpx

    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{base}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise ConfigError("the server did not become ready; `darkroom serve` shows its log")


def _save(out: Path, urls: list[str]) -> list[Path]:
    import httpx

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, url in enumerate(urls, 1):
        path = out / f"demo-{number}.png"
        path.write_bytes(httpx.get(url).raise_for_status().content)
        paths.append(path)
    return paths
