"""The darkroom command: exit codes, and what it says of a bad configuration without serving."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.cli import main
from tests.running import ROOT


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def _data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """``serve`` sends the log to stderr, which here is pytest's: what came later would write to a closed file."""
    root, ours = logging.getLogger(), logging.getLogger("darkroom")
    kept = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:] = kept[0]
    root.setLevel(kept[1])
    ours.setLevel(kept[2])


def test_check_passes_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--models", str(ROOT / "models.yaml")) == 0
    assert "0 of 1 folders with problems" in capsys.readouterr().out


def test_check_names_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("default: a\nmodels:\n  a: { path: nowhere }\n")
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr().err
    assert f"{file}: models.a: {tmp_path / 'nowhere'}: the folder does not exist" in said


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_typing_error_is_told_alike_with_and_without_serving(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("default: a\nmodels:\n  a: { paht: nowhere }\n")
    assert run(command, "--models", str(file)) == 2
    assert f"darkroom: {file}, line 3: models.a.paht" in capsys.readouterr().err


def test_models_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--models", str(ROOT / "models.yaml")) == 0
    assert "gpt-image-1" in capsys.readouterr().out


def test_pull_without_a_hub_name_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--models", str(ROOT / "models.yaml"), "pull", "dall-e-2") == 2
    assert "no hub key" in capsys.readouterr().err
    assert run("models", "--models", str(ROOT / "models.yaml"), "pull", "nonsense") == 1


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


@pytest.mark.parametrize("arguments", [(), ("dance",), ("check", "--nonsense"), ("serve", "--nonsense"), ("keys",)])
def test_wrong_usage_is_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err
