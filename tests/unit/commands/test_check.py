"""The command ``darkroom check``: what it says of a configuration without serving."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import ROOT
from tests.unit.commands.command_line import run


def test_check_passes_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--models", str(ROOT / "models.yaml")) == 0
    assert "0 of 1 folders with problems" in capsys.readouterr().out


def test_check_names_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("default: a\nmodels:\n  a: { path: nowhere }\n")
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr().err
    assert f"{file}: models.a: {tmp_path / 'nowhere'}: the folder does not exist" in said
