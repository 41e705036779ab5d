"""The command ``darkroom keys``: what is shown, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.commands.command_line import run


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "alice") == 0
    key = capsys.readouterr().out.strip()
    stored = (tmp_path / "data" / "keys.json").read_text()
    assert len(key) >= 32
    assert key not in stored
    assert "alice" in json.dumps(json.loads(stored))
    assert run("keys", "list") == 0
    listed = capsys.readouterr().out
    assert "alice" in listed
    assert key not in listed
    assert run("keys", "revoke", "alice") == 0
    assert run("keys", "revoke", "alice") == 1
