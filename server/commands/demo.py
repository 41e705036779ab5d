"""``darkroom demo``: start a server as a user would, make pictures through HTTP, show where they are, stop it.

Knows the command line and the API from outside; imports nothing of the server that it starts. That server has a data
folder of its own, no keys and this machine alone, whatever the settings of the one that usually runs here say.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import IO, Any

from server import interpreter
from server.commands.failure import CommandFailed
from server.errors import ConfigError

# The first worked example of the API's specification.
PROMPT = "A cute cat programming on a laptop, digital art style"
_START_TIMEOUT_S = 120.0
_NOT_FOR_THE_DEMO = (
    "PUBLIC_URL",
    "ALLOW_OPEN",
    "STORE",
    "S3_ENDPOINT",
    "SIGNING_KEY",
    "TLS_CERT",
    "TLS_KEY",
    "CORS_ORIGINS",
)  # settings of a lasting server


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
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("the demo speaks through the openai client: pip install 'darkroom[demo]'")
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    _make_folder(out)  # before anything is drawn
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
            asked = time.monotonic()
            urls = _draw(base, n)
            drawn_s = time.monotonic() - asked
            paths = _save(out, urls)
        finally:
            process.terminate()
            process.wait(timeout=60)
    for path in paths:
        print(path)
    print(f"server ready after {ready_s:.1f} s; {n} pictures in {drawn_s:.2f} s, {drawn_s / n:.2f} s each")
    return 0


def _start(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603, our own command
        [*interpreter.python("server"), "serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(data_dir)],
        stderr=subprocess.PIPE,
        text=True,
        env=interpreter.environment(_settings()),
    )


def _settings() -> dict[str, str]:
    dropped = {f"DARKROOM_{name}" for name in _NOT_FOR_THE_DEMO}
    return {name: value for name, value in os.environ.items() if name.upper() not in dropped}


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
    why = ""
    while time.monotonic() < deadline and process.poll() is None and not why:
        try:
            answer = httpx.get(f"{base}/readyz", trust_env=False)
            if answer.status_code == 200:
                return
            why = answer.json()["worker"].get("reason", "")
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise ConfigError(f"the server did not become ready; `darkroom serve` shows its log. {why}".strip())


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: no folder can be made there: {error.strerror}") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: nothing can be written there")


def _draw(base: str, n: int) -> list[str]:
    """The URLs of ``n`` pictures, asked for as most programs ask, but by no proxy. Raises CommandFailed."""
    from openai import DefaultHttpxClient, OpenAI, OpenAIError

    with DefaultHttpxClient(trust_env=False) as http:
        client = OpenAI(base_url=f"{base}/api", api_key="none-needed-on-loopback", http_client=http)
        try:
            answer = client.images.generate(prompt=PROMPT, n=n, response_format="url")
        except OpenAIError as error:
            raise CommandFailed(f"no pictures came: {error}") from None
    return [picture.url or "" for picture in answer.data or ()]


def _save(out: Path, urls: list[str]) -> list[Path]:
    import httpx

    paths = []
    for number, url in enumerate(urls, 1):
        path = out / f"demo-{number}.png"
        try:
            data = httpx.get(url, trust_env=False).raise_for_status().content
        except httpx.HTTPError as error:
            raise CommandFailed(f"a picture could not be fetched: {error}") from None
        try:
            path.write_bytes(data)
        except OSError as error:
            path.unlink(missing_ok=True)  # half a picture is none
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
        paths.append(path)
    return paths
