"""A restart proves nothing twice: what checks at load found is in the data folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.running import ROOT, Running, start

FILE = ROOT / "models.yaml"


def checked(running: Running) -> dict[str, Any]:
    """What the log says of the check."""
    lines = [json.loads(line) for line in running.lines if '"model checked"' in line]
    assert len(lines) == 1, running.log
    found: dict[str, Any] = lines[0]
    return found


def test_a_server_that_starts_again_does_not_check_again(tmp_path: Path) -> None:
    for known in (False, True):
        with start(tmp_path, models=FILE) as running:
            assert checked(running)["known"] is known
            assert running.draw().status_code == 200
            assert len(list((tmp_path / "checks").iterdir())) == 1
            assert running.stop() == 0
