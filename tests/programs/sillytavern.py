"""SillyTavern's own server, as npm has it (make programs): what its page asks of it, asked as the page does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.programs.running import serving
from tests.running import ROOT, Running

FOLDER = ROOT / ".programs" / "sillytavern" / "node_modules" / "sillytavern"


class SillyTavern:
    """One that runs. It asks the image server at ``url``, with ``auth`` (user:password) as a user types it."""

    def __init__(self, client: httpx.Client, url: str, auth: str) -> None:
        self.client = client
        self.server: Running | None = None  # where a test has started one for it
        self._server = {"url": url, "auth": auth}

    def ask(self, what: str, **fields: Any) -> httpx.Response:
        """What the page sends to its server for the source "auto"."""
        return self.client.post(f"/api/sd/{what}", json={**self._server, **fields})

    def draw(self, prompt: str, timeout: float = 120, **changes: Any) -> httpx.Response:
        """All that the page sends for a picture; ``timeout``: seconds until it goes away."""
        fields = {
            "prompt": prompt,
            "negative_prompt": "",
            "sampler_name": "DDIM",
            "scheduler": "automatic",
            "steps": 20,
            "cfg_scale": 7,
            "width": 512,
            "height": 512,
            "restore_faces": False,
            "enable_hr": False,
            "hr_upscaler": "Latent",
            "hr_scale": 2,
            "hr_additional_modules": [],
            "denoising_strength": 0.7,
            "hr_second_pass_steps": 0,
            "override_settings": {"CLIP_stop_at_last_layers": 1},
            "override_settings_restore_afterwards": True,
            "clip_skip": 1,
            "save_images": True,
            "send_images": True,
            "do_not_save_grid": False,
            "do_not_save_samples": False,
        }
        return self.client.post("/api/sd/generate", json={**self._server, **fields, **changes}, timeout=timeout)


def require() -> None:
    """Skip where it is not installed."""
    if not FOLDER.exists():
        pytest.skip("needs SillyTavern: make programs")


@contextmanager
def sillytavern(folder: Path, url: str, auth: str = "") -> Iterator[SillyTavern]:
    """Started with its data in ``folder``."""
    shutil.copy(FOLDER / "default" / "config.yaml", folder / "config.yaml")

    def command(port: int) -> list[str]:
        own = [f"--configPath={folder}/config.yaml", f"--dataRoot={folder}/data", f"--port={port}", "--listen=false"]
        return ["node", "server.js", *own, "--disableCsrf", "--browserLaunchEnabled=false"]

    with serving(command, folder=folder, cwd=FOLDER, alive="/version", within_s=120) as client:
        yield SillyTavern(client, url, auth)
