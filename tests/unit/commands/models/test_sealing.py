"""``darkroom models seal`` and ``verify``, and what check and loading make of a seal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipelines.errors import LoadRefused
from pipelines.facts import seal
from pipelines.models import loader
from pipelines.plan import ModelPlan
from server.storage.verified import VerifiedFolders
from tests.running import ROOT
from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_seal import WEIGHTS, flip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A models.yaml with a copy of the embedded model, and an ID that shares its weights."""
    shutil.copytree(ROOT / "weights" / "darkroom-mini", tmp_path / "model")
    path = tmp_path / "models.yaml"
    path.write_text("default: a\nmodels:\n  a: { path: model }\n  b: { like: a }\n")
    return path


def models(file: Path, *arguments: str) -> int:
    return run("models", "--models", str(file), *arguments)


def test_what_is_sealed_is_verified(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models(file, "seal", "b") == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "model" / "darkroom-seal.json") in said
    sealed = seal.read(tmp_path / "model")
    assert sealed is not None
    assert f"SHA-256 of the seal: {sealed.sha256}" in said
    assert models(file, "verify", "a") == 0
    captured = capsys.readouterr()
    assert "as sealed" in captured.out
    assert sealed.sha256 in captured.out
    assert "MB" in captured.err, "the progress is shown"


def test_verify_names_each_file_and_keeps_its_result(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models(file, "seal", "a")
    folder = tmp_path / "model"
    flip(folder / WEIGHTS, -1)
    (folder / "vae" / "config.json").unlink()
    (folder / "tokenizer" / "chat_template.jinja").write_text("x")
    assert models(file, "verify", "a") == 1
    said = capsys.readouterr().out
    assert f"differs: {WEIGHTS}\n" in said
    assert "missing: vae/config.json\n" in said
    assert "added: tokenizer/chat_template.jinja\n" in said
    sealed = seal.read(folder)
    assert sealed is not None
    last = VerifiedFolders(tmp_path / "data").last(str(folder), sealed.sha256)
    assert last is not None
    assert not last.intact


@pytest.mark.usefixtures("near_child")
def test_a_model_that_is_not_sealed_works_as_ever_and_verify_says_so(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", "--models", str(file), "--deep") == 0
    assert models(file, "verify", "a") == 1
    assert "is not sealed: `darkroom models seal a`" in capsys.readouterr().err


def test_a_changed_folder_is_sealed_again_only_where_that_is_said(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An accident would be sealed over, by whoever seals all folders every night."""
    models(file, "seal", "a")
    before = (tmp_path / "model" / seal.NAME).read_bytes()
    path = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    assert models(file, "seal", "a") == 1
    said = capsys.readouterr().err
    assert "scheduler/scheduler_config.json" in said
    assert "`darkroom models seal a --again` seals it as it is now" in said
    assert (tmp_path / "model" / seal.NAME).read_bytes() == before
    assert models(file, "seal", "a", "--again") == 0
    assert models(file, "verify", "a") == 0


def test_a_broken_folder_is_not_sealed(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model" / WEIGHTS).write_bytes(b"torn")
    assert models(file, "seal", "a") == 1
    assert "not sealed: " in capsys.readouterr().err
    assert not (tmp_path / "model" / seal.NAME).exists()


def test_others_may_read_a_seal(file: Path, tmp_path: Path) -> None:
    """The server runs as another user than who seals."""
    models(file, "seal", "a")
    assert (tmp_path / "model" / seal.NAME).stat().st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("near_child")
def test_a_deep_check_verifies_what_is_sealed(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models(file, "seal", "a")
    assert run("check", "--models", str(file), "--deep") == 0
    flip(tmp_path / "model" / WEIGHTS, -1)
    assert run("check", "--models", str(file)) == 0
    assert run("check", "--models", str(file), "--deep") == 1
    assert f"not what was sealed: {WEIGHTS} (differs)" in capsys.readouterr().err
    sealed = seal.read(tmp_path / "model")
    assert sealed is not None
    last = VerifiedFolders(tmp_path / "data").last(str(tmp_path / "model"), sealed.sha256)
    assert last is not None
    assert not last.intact


def test_check_and_loading_refuse_by_name(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models(file, "seal", "a")
    path = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    path.write_bytes(path.read_bytes() + b" ")
    assert run("check", "--models", str(file)) == 1
    assert "scheduler/scheduler_config.json has " in capsys.readouterr().err
    plan = ModelPlan("a", str(tmp_path / "model"), "stable-diffusion")
    with pytest.raises(LoadRefused, match="when it was sealed"):
        loader.load(plan, torch.device("cpu"))


def test_a_result_that_cannot_be_kept_is_told_all_the_same(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("no folder")
    assert models(file, "seal", "a") == 0
    assert models(file, "verify", "a") == 0
    captured = capsys.readouterr()
    assert "/v1/models will not show this" in captured.err
    assert "as sealed" in captured.out
