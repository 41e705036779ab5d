"""``darkroom models import --copy``: a file becomes a folder that is the same model, or nothing is left."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.facts import folder as model_folder
from pipelines.models import conversion
from pipelines.models.loader import load
from pipelines.plan import ModelPlan
from server import interpreter
from tests import original_layout
from tests.original_layout import modules, small_configurations, write
from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_checkpoint import write as write_header_of

pytestmark = pytest.mark.usefixtures("near_child")
UNET = "model.diffusion_model."
MODELS = "default: a\nmodels:\n  a: { path: nowhere }\n"


class Written:
    """A small checkpoint, and the command for it."""

    def __init__(self, folder: Path) -> None:
        self.config = small_configurations("sd15", folder / "configurations")
        self.modules = modules(self.config)
        self.tensors = original_layout.checkpoint(self.modules)
        self.file = write(folder / "some.safetensors", self.tensors)
        self.folder = folder
        (folder / "models.yaml").write_text(MODELS)

    def copy(self, *arguments: str, file: Path | None = None) -> int:
        known = ["models", "--models", str(self.folder / "models.yaml"), "import", str(file or self.file), "--copy"]
        return run(*known, "--config", str(self.config), *arguments)

    def left(self) -> list[str]:
        known = {"configurations", "some.safetensors", "models.yaml"}
        return sorted(path.name for path in self.folder.iterdir() if path.name not in known)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_a_checkpoint_becomes_a_folder_of_the_same_tensors(
    written: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In shards where it is large; EMA weights are not copied, marks are heeded."""
    monkeypatch.setattr(conversion, "_SHARD_BYTES", 100_000)
    written.tensors |= {f"model_ema.x{number}": torch.ones(3) for number in range(120)}
    written.tensors |= {"v_pred": torch.zeros(0)}
    write(written.file, written.tensors)
    assert written.copy("--write", "--as", "new") == 0
    target = written.folder / "some"
    assert written.left() == ["some"]
    assert model_folder.problem(target) is None
    assert (target / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    model = load(ModelPlan("m", str(target), "auto"), torch.device("cpu"))
    for name, module in written.modules.items():
        found = model.components[name].state_dict()
        for key, tensor in module.state_dict().items():
            assert torch.equal(found[key], tensor), f"{name}: {key}"
    assert model.components["scheduler"].config.prediction_type == "v_prediction"
    assert "MB written" in capsys.readouterr().out
    assert (written.folder / "models.yaml").read_text() == f"{MODELS}\n  new:\n    path: {target}\n"


@torch.no_grad()
def test_fp8_is_written_as_what_it_stands_for(written: Written) -> None:
    """Copied as it was stored, it would be hundreds of times too large wherever nobody knows of scales."""
    name = f"{UNET}time_embed.0.weight"
    whole = written.tensors[name]
    small = (whole / whole.abs().max() * 400).to(torch.float8_e4m3fn)
    scale = whole.abs().max() / 400
    written.tensors |= {name: small, name.replace("weight", "scale_weight"): scale}
    written.tensors[f"{UNET}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    write(written.file, written.tensors)
    assert written.copy("--into", str(written.folder / "deep" / "copy")) == 0
    found = load_file(written.folder / "deep" / "copy" / "unet" / "diffusion_pytorch_model.safetensors")
    assert found["time_embedding.linear_1.weight"].dtype is torch.bfloat16
    assert torch.equal(found["time_embedding.linear_1.weight"], (small.float() * scale).bfloat16())
    assert not [each for each in found if "scale" in each]


def test_what_is_there_already_is_not_touched(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    (written.folder / "some").mkdir()
    (written.folder / "some" / "mine").write_text("mine")
    assert written.copy() == 1
    assert "some is there already: name another folder with --into" in capsys.readouterr().err
    assert written.left() == ["some"]


def test_a_disk_without_room_is_told_before(
    written: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert written.copy() == 1
    assert "GB are to be written, and the disk has 0.0 GB free; nothing is changed" in capsys.readouterr().err
    assert written.left() == []


def test_a_disk_that_gets_full_meanwhile_leaves_nothing(
    written: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(conversion, "_write_file", full)
    assert written.copy() == 1
    assert "not copied: No space left on device" in capsys.readouterr().err
    assert written.left() == []


def test_what_was_not_written_as_it_should_be_is_not_kept(
    written: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = conversion._write_file

    def lossy(path: Path, tensors: dict[str, torch.Tensor], progress: Any) -> None:
        real(path, dict(list(tensors.items())[1:]), progress)

    monkeypatch.setattr(conversion, "_write_file", lossy)
    assert written.copy() == 1
    assert "was not written as it should be" in capsys.readouterr().err
    assert written.left() == []


def test_a_tensor_that_is_missing_is_named_before_anything_is_written(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    del written.tensors[f"{UNET}time_embed.0.weight"]
    write(written.file, written.tensors)
    assert written.copy() == 1
    assert "not copied: some.safetensors (unet) lacks 1 of the" in capsys.readouterr().err
    assert written.left() == []


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.lora_up.weight"], "--copy is for whole models: other.safetensors is a LoRA: list it under loras"),
        (["encoder.conv_in.weight"], "--copy is for whole models: other.safetensors is a VAE alone: name it under vae"),
        (["something"], "--copy is for whole models: other.safetensors is no kind of model"),
    ],
)
def test_what_is_no_model_is_refused_with_what_to_do(
    names: list[str], says: str, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_header_of(written.folder / "other.safetensors", dict.fromkeys(names, (4, 4)))
    assert written.copy(file=other) == 1
    assert says in capsys.readouterr().err
    assert written.left() == ["other.safetensors"]


def test_a_writer_that_dies_says_why(
    written: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from server.commands import child

    monkeypatch.setattr(child, "start", child.Child)
    died = [shutil.which("sh") or "sh", "-c", "echo no more memory >&2; exit 3"]
    monkeypatch.setattr(interpreter, "python", lambda module: died)
    assert written.copy() == 1
    said = capsys.readouterr().err
    assert "the process that wrote it ended (exit code 3), and it said last:\n  no more memory" in said
    assert written.left() == []


def test_the_folder_is_printed_as_an_entry(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    assert written.copy() == 0
    assert f"  some:\n    path: {written.folder / 'some'}\n" in capsys.readouterr().out
    index = json.loads((written.folder / "some" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
