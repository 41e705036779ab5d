"""The command ``darkroom models``: the list, from a server or from models.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.catalog.catalog import Model
from tests.paper import Paper
from tests.running import ROOT
from tests.unit.commands.command_line import run


def test_models_of_a_running_server(paper: Paper, mini: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--server", paper.url) == 0
    said = capsys.readouterr().out
    assert "(running)" in said
    assert "ready" in said
    weights = sum(file.stat().st_size for file in Path(mini.plan.folder).glob("*/*.safetensors"))
    assert f"{weights / 1e6:.0f} MB" in said, "without its tokenizer and its upscaler, as a device holds it"
    assert "doubao-seedream-4-0-250828" in said


def test_models_without_a_server_are_those_of_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "9")
    assert run("models") == 0
    said = capsys.readouterr().out
    assert "models.yaml" in said
    assert "on disk" in said
    assert run("models", "--server", "http://127.0.0.1:9") == 1
    assert "no server answers" in capsys.readouterr().err


def test_a_table_for_programs_is_not_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a[" / "b]"  # rich would read markup in it
    folder.mkdir(parents=True)
    names = [f"another-name-{i}" for i in range(9)]
    text = f"default: x\nmodels:\n  x: {{ path: /nowhere, aliases: [{', '.join(names)}] }}\n"
    (folder / "models.yaml").write_text(text)
    assert run("models", "--models", str(folder / "models.yaml")) == 0
    title, _, row = capsys.readouterr().out.splitlines()
    assert title.strip() == str(folder / "models.yaml")
    assert row.split()[-9:] == names


def test_models_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--models", str(ROOT / "models.yaml")) == 0
    assert "gpt-image-1" in capsys.readouterr().out
