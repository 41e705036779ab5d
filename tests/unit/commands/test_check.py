"""The command ``darkroom check``: what it says of a configuration without serving."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from server import interpreter
from server.catalog.load import load_catalog
from server.commands.doctor import inquiry, machine
from server.errors import ConfigError
from server.settings import read_settings
from server.worker import devices as worker_devices
from server.worker.child.inspection import Sizes
from server.worker.devices import find
from tests.running import ROOT
from tests.unit.catalog.control_folders import write_control
from tests.unit.commands.command_line import run
from tests.unit.commands.doctor.machines import RTX_4090, on
from tests.unit.pipelines.facts.test_checkpoint import sd
from tests.unit.pipelines.facts.test_checkpoint import write as write_header_of


@pytest.mark.usefixtures("near_child")
def test_check_passes_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--models", str(ROOT / "models.yaml")) == 0
    assert "0 of 1 folders with problems" in capsys.readouterr().out


def test_check_names_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("default: a\nmodels:\n  a: { path: nowhere }\n")
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr().err
    assert f"{file}: models.a: {tmp_path / 'nowhere'}: the folder does not exist" in said


@pytest.mark.usefixtures("near_child")
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


@pytest.mark.usefixtures("near_child")
@pytest.mark.parametrize(("gib", "says"), [(5, "5.0 GiB of the device as bfloat16: it fits"), (90, "it does not fit")])
def test_check_says_what_a_model_takes_of_a_device(
    gib: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the doctor said so; whoever checked a file learnt from a serving server that its model has no room."""
    file = tmp_path / "models.yaml"
    file.write_text(f"default: a\nmodels:\n  a: {{ path: {ROOT / 'weights/darkroom-mini'} }}\n")
    monkeypatch.setattr(inquiry, "ask", lambda catalog, settings: on(RTX_4090, Sizes("bfloat16", gib * machine.GIB)))
    monkeypatch.setattr(machine, "has_cuda_device", lambda: True)
    assert run("check", "--models", str(file)) == 0, "another may have the memory now"
    assert says in (said := capsys.readouterr().out)
    assert f"{file}: models.a: its weights take" in said
    monkeypatch.setenv("DARKROOM_DEVICE", "cpu")
    run("check", "--models", str(file))
    assert "weights take" not in capsys.readouterr().out


@pytest.mark.usefixtures("near_child")
@pytest.mark.parametrize("devices", [None, "cpu", "cpu,cpu"])
def test_check_asks_no_device_where_there_is_none(
    devices: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process imported torch, for the seconds that it takes, to be told that there is no card."""
    asked: list[object] = []
    monkeypatch.setattr(inquiry, "ask", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(machine, "has_cuda_device", lambda: devices is not None)
    if devices is not None:
        monkeypatch.setenv("DARKROOM_DEVICES", devices)
    file = tmp_path / "models.yaml"
    file.write_text(f"default: a\nmodels:\n  a: {{ path: {ROOT / 'weights/darkroom-mini'} }}\n")
    assert run("check", "--models", str(file)) == 0
    assert not asked


@pytest.mark.usefixtures("near_child")
@pytest.mark.parametrize(
    ("devices", "says"),
    [
        ("auto", "models.a.devices = 'cpu:1': this server does not draw on it: it has a single device, cpu or cuda"),
        ("cpu,cpu,cpu", None),
        ("cpu,cuda:9", "DARKROOM_DEVICES (--devices) = cpu,cuda:9: cuda:9 is not there: "),
    ],
)
def test_check_says_what_a_server_would_say_of_devices_that_are_not_there(
    devices: str, says: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check was content, and the server ended at its start. The rest of the file is checked all the same."""
    monkeypatch.setattr(worker_devices, "_CARDS", ())  # whatever this machine has
    monkeypatch.setattr(worker_devices, "_AMD", "nowhere")
    asked: list[str] = []
    monkeypatch.setattr(worker_devices, "ask", asked.append)
    monkeypatch.setenv("DARKROOM_DEVICES", devices)
    file = tmp_path / "models.yaml"
    whole = ROOT / "weights/darkroom-mini"
    file.write_text(f'default: a\nmodels:\n  a: {{ path: {whole}, devices: ["cpu:1"] }}\n  b: {{ path: nowhere }}\n')
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr().err
    assert "models.b: " in said
    if says is None:
        assert "devices" not in said.lower()
    else:
        assert says in said
        with pytest.raises(ConfigError) as refused:
            load_catalog(file, find(read_settings()))
        assert str(refused.value) in said
    assert asked == [], "no process asks a driver that is not there"


@pytest.mark.usefixtures("near_child")
def test_check_says_that_a_device_that_is_named_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        inquiry, "ask", lambda catalog, settings: on(None, Sizes(), device_problem="torch is a build without CUDA")
    )
    monkeypatch.setenv("DARKROOM_DEVICE", "cuda")
    assert run("check", "--models", str(ROOT / "models.yaml")) == 0
    said = capsys.readouterr()
    assert "the device cannot be used here: torch is a build without CUDA" in said.err
    assert "weights take" not in said.out


def broken(tmp_path: Path, how: Callable[[Path], None]) -> Path:
    """A models.yaml with the embedded model as it is, and beside it a copy that is broken."""
    shutil.copytree(ROOT / "weights" / "darkroom-mini", tmp_path / "copy")
    how(tmp_path / "copy")
    file = tmp_path / "models.yaml"
    whole = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: whole\nmodels:\n  copy: {{ path: copy }}\n  whole: {{ path: {whole} }}\n")
    return file


def change(path: Path, how: Callable[[str, torch.Tensor], torch.Tensor], prefix: str = "") -> None:
    tensors = load_file(path)
    save_file({prefix + name: how(name, tensor).clone() for name, tensor in tensors.items()}, path)


def no_words(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    whole = json.loads(file.read_text())
    few = {"<|startoftext|>": 7436, "<|endoftext|>": 7437}
    file.write_text(json.dumps({**whole, "model": {**whole["model"], "vocab": few, "merges": []}}))


def renamed(folder: Path) -> None:
    change(folder / "text_encoder" / "model.safetensors", lambda _, tensor: tensor, prefix="other.")


def wider(folder: Path) -> None:
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cross_attention_dim": 384}))


def not_a_number(folder: Path) -> None:
    def spoil(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.full_like(tensor, float("nan")) if name == "conv_in.bias" else tensor

    change(folder / "unet" / "diffusion_pytorch_model.safetensors", spoil)


def infinite(folder: Path) -> None:
    def spoil(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(tensor.numel()).view_as(tensor) == 3, torch.inf, tensor)

    change(folder / "vae" / "diffusion_pytorch_model.safetensors", spoil)


def zero(folder: Path) -> None:
    change(folder / "text_encoder" / "model.safetensors", lambda _, tensor: torch.zeros_like(tensor))


@pytest.mark.usefixtures("near_child")
@pytest.mark.parametrize(
    ("how", "says"),
    [
        (no_words, "tokenizer/ knows no words, so that prompts would have no effect"),
        (renamed, "text_encoder/ lacks 84 of the 84 tensors of its CLIPTextModel"),
        (wider, "unet/ does not fit its config.json: "),
    ],
)
def test_check_builds_what_it_checks(
    how: Callable[[Path], None], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of these were ok, and drawn from random numbers or without their prompt."""
    file = broken(tmp_path, how)
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr()
    assert f"{file}: models.copy: {tmp_path / 'copy'}: {says}" in said.err
    assert "2 models, 1 of 2 folders with problems" in said.out


@pytest.mark.usefixtures("near_child")
@pytest.mark.parametrize(
    ("how", "says"),
    [
        (not_a_number, "unet/diffusion_pytorch_model.safetensors: conv_in.bias has NaN or infinity in it"),
        (infinite, "has NaN or infinity in it"),
        (zero, "text_encoder/: all of its weights are zero, so that prompts would have no effect"),
    ],
)
def test_only_a_deep_check_reads_every_byte(
    how: Callable[[Path], None], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = broken(tmp_path, how)
    assert run("check", "--models", str(file)) == 0
    assert run("check", "--models", str(file), "--deep") == 1
    said = capsys.readouterr()
    assert says in said.err
    assert "MB" in said.err, "the progress is shown"
    assert "2 models, 1 of 2 folders with problems" in said.out


def test_a_folder_that_ends_the_process_that_checks_it_is_named_and_the_rest_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [sys.executable, "-c", "import os; os.abort()"]
    commands = iter([first, interpreter.python("server.worker.child.check")])
    monkeypatch.setattr(interpreter, "python", lambda module: next(commands))
    file = broken(tmp_path, renamed)
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr()
    assert f"{tmp_path / 'copy'}: checking it ended the process" in said.err
    assert "1 of 2 folders with problems" in said.out


@pytest.mark.usefixtures("near_child")
def test_checkpoints_are_checked_as_folders_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the folder of checkpoints that is none is told, as is one that its classes do not fit."""
    (tmp_path / "files").mkdir()
    write_header_of(tmp_path / "files" / "lora.safetensors", {"a.lora_up.weight": (4, 4)})
    write_header_of(tmp_path / "files" / "hollow.safetensors", sd())
    file = tmp_path / "models.yaml"
    file.write_text("default: hollow\ncheckpoints: files\n")
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr()
    assert f"{file}: checkpoints: lora.safetensors: lora.safetensors is a LoRA: list it" in said.err
    hollow = tmp_path / "files" / "hollow.safetensors"
    assert f"{file}: models.hollow: {hollow}: hollow.safetensors (" in said.err
    assert "lacks" in said.err
    assert "1 models, 1 of 1 folders with problems" in said.out


@pytest.mark.usefixtures("near_child")
def test_a_folder_that_is_refused_leaves_no_empty_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stood there at 0 of so many megabytes, as if it were still read."""
    assert run("check", "--models", str(broken(tmp_path, renamed)), "--deep") == 1
    bars = [line for line in capsys.readouterr().err.splitlines() if "MB" in line]
    assert any(line.startswith("whole ") for line in bars)
    assert not any(line.startswith("copy ") for line in bars)


def test_what_the_process_said_last_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was thrown away, and the exit code told nobody anything."""
    lines = (
        "import os, sys; print('x' * 9999 + '\\n' + 'early\\n' * 50, *range(7), sep='\\n', file=sys.stderr, flush=True)"
    )
    dying = [sys.executable, "-c", f"{lines}; print('\\x1b[2Jout of memory', file=sys.stderr, flush=True); os.abort()"]
    monkeypatch.setattr(interpreter, "python", lambda module: dying)
    file = tmp_path / "models.yaml"
    file.write_text(f"default: a\nmodels:\n  a: {{ path: {ROOT / 'weights/darkroom-mini'} }}\n")
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr().err
    assert "checking it ended the process (exit code -6), and it said last:\n  0\n  1" in said
    assert said.endswith("  6\n  ?[2Jout of memory\n")
    assert "early" not in said


def test_files_in_the_lora_folder_of_each_id_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of IDs that share weights, the owner's alone were."""
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.safetensors").write_bytes(b"torn")
    file = tmp_path / "models.yaml"
    file.write_text(
        "default: a\nmodels:\n  a: { path: nowhere, lora_folder: own }\n  b: { like: a, lora_folder: other }\n"
        "  c: { like: a }\n  d: { like: a, lora_folder: gone, loras: { x: { path: x.safetensors } } }\n"
    )
    assert run("check", "--models", str(file)) == 1
    said = capsys.readouterr().err
    assert f"{file}: models.a.loras.own.safetensors: " in said
    assert f"{file}: models.b.loras.other.safetensors: " in said
    assert f"{file}: models.d.loras.lora_folder: the folder does not exist" in said
    assert f"{file}: models.d.loras.x: x.safetensors does not exist" in said
    assert "models.c" not in said, "what it has from another is told there"
    assert said.count("loras.") == 4


@pytest.mark.usefixtures("near_child")
def test_a_controlnet_is_named_where_it_is_missing_or_not_what_its_configuration_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_control(tmp_path / "canny")  # its header is whole, and its tensors are not those of its class
    mini = ROOT / "weights" / "darkroom-mini"
    text = f"default: mini\nmodels:\n  mini: {{ path: {mini}, controlnets: {{ canny: canny, gone: nowhere }} }}\n"
    file = tmp_path / "models.yaml"
    file.write_text(text)
    assert run("check", "--models", str(file)) == 1
    assert "controlnets.gone: the folder nowhere does not exist" in capsys.readouterr().err
    file.write_text(text.replace(", gone: nowhere", ""))
    assert run("check", "--models", str(file)) == 1
    assert "controlnets.canny/ lacks" in capsys.readouterr().err
