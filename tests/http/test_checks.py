"""A restart proves nothing twice: what checks at load found is in the data folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.running import ROOT, Running, start

FILE = ROOT / "models.yaml"


def checked(running: Running) -> bool:
    """Whether what the first check would find was known, as the log says."""
    lines = [json.loads(line) for line in running.lines if '"model checked"' in line]
    assert lines, running.log
    return bool(lines[0]["known"])


def test_a_server_that_starts_again_does_not_check_again(server: Running, tmp_path: Path) -> None:
    """The first is the one of all tests; the second starts with what that one found, as if in its folder."""
    assert not checked(server)
    shutil.copytree(server.data_dir / "checks", tmp_path / "checks")
    with start(tmp_path, models=FILE) as running:
        assert checked(running)
        assert running.draw().status_code == 200
        assert len(list((tmp_path / "checks").iterdir())) == 1
        assert running.stop() == 0
