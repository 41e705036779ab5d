"""The command ``darkroom models``: the list, from a server or from models.yaml, and ``pull``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils._paths import filter_repo_objects

from tests.paper import Paper
from tests.running import ROOT
from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_component import ADDED
from tests.unit.pipelines.facts.test_folder import weights


def test_models_of_a_running_server(paper: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--server", paper.url) == 0
    said = capsys.readouterr().out
    assert "(running)" in said
    assert "ready" in said
    assert "28 MB" in said
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


def test_pull_without_a_hub_name_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--models", str(ROOT / "models.yaml"), "pull", "dall-e-2") == 2
    assert "no hub key" in capsys.readouterr().err
    assert run("models", "--models", str(ROOT / "models.yaml"), "pull", "nonsense") == 1


DIFFUSERS = "diffusion_pytorch_model"
READ: Mapping[str, bytes] = {
    "model_index.json": json.dumps(
        {
            "_class_name": "ZImagePipeline",
            "transformer": ["diffusers", "ZImageTransformer2DModel"],
            "text_encoder": ["transformers", "Qwen3Model"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "safety_checker": [None, None],
        }
    ).encode(),
    "transformer/config.json": b"{}",
    f"transformer/{DIFFUSERS}.safetensors.index.json": b'{"weight_map": {"w": "part-[1].safetensors"}}',
    "transformer/part-[1].safetensors": weights(),
    "text_encoder/config.json": b"{}",
    "text_encoder/generation_config.json": b"{}",
    "text_encoder/model.safetensors": weights(),
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer/vocab.json": b'{"a": 1}',
    "tokenizer/merges.txt": b"a b",
    "tokenizer/chat_template.jinja": b"{{ messages }}",
    "tokenizer/additional_chat_templates/tool.jinja": b"{{ tools }}",
    "scheduler/scheduler_config.json": b"{}",
}
BESIDE = (
    *(f"transformer/{name}" for name in ADDED),
    *(f"text_encoder/{name}" for name in ADDED),
    *("z-image.safetensors", "README.md", "LICENSE", "assets/picture.json", "safety_checker/model.safetensors"),
    *("None.py", "transformer/part-1.safetensors", "text_encoder/model.safetensors.index.json"),
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as huggingface_hub shows it, in a folder: its client's three calls, all of one revision."""
    folder = tmp_path / "hub"
    for name, content in {**dict.fromkeys(BESIDE, b"torn"), **READ}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    def names() -> list[str]:
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    def fetch(repo: str, name: str, *, revision: str, local_dir: Path) -> str:
        assert (repo, revision) == ("org/z-image", "sha")
        (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(folder / name, local_dir / name))

    def fetch_all(repo: str, *, allow_patterns: Sequence[str], **where: Any) -> None:
        for name in filter_repo_objects(names(), allow_patterns=list(allow_patterns)):
            fetch(repo, name, **where)

    def info(self: Any, repo: str) -> Any:
        return SimpleNamespace(sha="sha", siblings=[SimpleNamespace(rfilename=name) for name in names()])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch_all)
    (tmp_path / "models.yaml").write_text("default: z\nmodels:\n  z: { path: model, hub: org/z-image }\n")
    return folder


def pull(folder: Path) -> int:
    return run("models", "--models", str(folder / "models.yaml"), "pull", "z")


def test_pull_takes_what_loading_reads_and_nothing_else(hub: Path, tmp_path: Path) -> None:
    """It left chat templates behind, so that every request was a 503, and took every variant and twin."""
    assert pull(tmp_path) == 0
    model = tmp_path / "model"
    assert {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()} == set(READ)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("model_index.json", "diffusers' format"),
        ("transformer/part-[1].safetensors", "missing"),
        ("text_encoder/model.safetensors", "missing"),
        ("tokenizer/vocab.json", "vocabulary"),
    ],
)
def test_pull_says_what_a_repository_lacks_before_it_fetches_weights(
    hub: Path, tmp_path: Path, lost: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub / lost).unlink()
    (hub / "text_encoder/model.safetensors.index.json").write_text('{"weight_map": {"w": "gone.safetensors"}}')
    assert pull(tmp_path) == 2
    assert says in capsys.readouterr().err
    assert not list((tmp_path).glob("model/**/*.safetensors"))
