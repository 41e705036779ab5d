"""A front in a process of its own, with a worker of paper: what grows in it is the front's alone.

    python -m tests.hostile.front BALLAST

``BALLAST``: bytes added to every picture. Settings come from ``DARKROOM_*`` variables, as always.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.running import ROOT, eventually

MIB = 1024 * 1024


@dataclass
class Front:
    """One such process."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, verify=False, **{"timeout": 120, **options})

    def memory(self) -> int:
        """Bytes that are resident now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def peak(self) -> int:
        """The most bytes that have been resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def forget_peak(self) -> int:
        """Count the peak from now on; what is resident now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory()


@contextlib.contextmanager
def start(*, ballast: int = 0, models_yaml: str = "", **settings: Any) -> Iterator[Front]:
    """A front with these settings. It is killed at the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    chosen = {f"DARKROOM_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        places = {"DARKROOM_DATA_DIR": f"{folder}/data", "DARKROOM_PORT": "0"}
        if models_yaml:
            places["DARKROOM_MODELS"] = f"{folder}/models.yaml"
            Path(places["DARKROOM_MODELS"]).write_text(models_yaml)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.front", str(ballast)],
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env={**clean, **places, **chosen},
            )
        try:
            found = eventually(lambda: re.search(r"listens on (http://\S+)", log.read_text()))
            assert found is not None
            front = Front(process, found[1])
            with front.client() as client:
                eventually(lambda: _answers(client))
            yield front
            assert process.poll() is None, log.read_text()[-2000:]
        finally:
            process.kill()
            process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except httpx.TransportError:
        return False


def main() -> None:
    """Serve until killed."""
    from server import app
    from server.serve import serve
    from server.settings import read_settings
    from tests.paper import PaperWorker

    ballast = int(sys.argv[1])

    class Ballasted(PaperWorker):
        def forget(self) -> None:
            super().forget()
            self.ballast = ballast

        async def draw(self, *args: Any, **kwargs: Any) -> Any:
            finished = await super().draw(*args, **kwargs)
            self.drawings.clear()  # a worker keeps none
            return finished

    setattr(app, "LocalWorker", Ballasted)  # noqa: B010
    serve(read_settings())


if __name__ == "__main__":
    main()
