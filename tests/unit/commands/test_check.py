"""The command ``darkroom check``: what it says of a configuration without serving."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.commands.doctor import machine
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


def test_check_names_the_compiler_where_compile_has_an_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check was content, and the model broken after minutes of loading. On the CPU nobody needs one."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    file = tmp_path / "models.yaml"
    file.write_text(f"default: a\nmodels:\n  a: {{ path: {ROOT / 'weights/darkroom-mini'}, compile: true }}\n")
    assert run("check", "--models", str(file)) == 0
    monkeypatch.setattr(machine, "has_cuda_device", lambda: True)
    assert run("check", "--models", str(file)) == 1
    assert "compile: true needs a C compiler: apt-get install gcc libc6-dev python3-dev" in capsys.readouterr().err
    monkeypatch.setenv("DARKROOM_DEVICE", "cpu")
    assert run("check", "--models", str(file)) == 0
