"""The examples of README.md and of two pages run as they stand, in order, in one folder; only the address differs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, Running

_RUNNABLE = re.compile(r"^<!-- run -->\n```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = "http://127.0.0.1:8000"


@pytest.mark.parametrize("page", ["README.md", "docs/api.md", "docs/async.md"])
def test_examples_run(server: Running, page: str, tmp_path: Path) -> None:
    blocks = _RUNNABLE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    for language, text in blocks:
        assert _ADDRESS in text
        output = _run(language, text.replace(_ADDRESS, server.url), tmp_path)
        assert not re.search(r'"error": ?[{"]', output), output  # a job's row has one that is null


def _run(language: str, text: str, folder: Path) -> str:
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("needs curl: apt-get install curl")
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    # A proxy that the environment names has no way to a server on loopback.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150)
    assert result.returncode == 0, result.stderr
    return result.stdout
