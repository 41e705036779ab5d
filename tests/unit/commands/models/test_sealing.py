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
from server.api.seals import SealStates
from server.catalog.load import load_catalog
from server.storage.verified import VerifiedFolders
from tests import upscalers
from tests.running import ROOT
from tests.unit.catalog.control_folders import write_control
from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_checkpoint import sd, write
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


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A models.yaml with a checkpoint that has a LoRA, and one that shares its VAE."""
    for name in ("one", "two"):
        write(tmp_path / f"{name}.safetensors", {k: v for k, v in sd().items() if not k.startswith("first_stage")})
    write(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": (512, 4, 3, 3)})
    write(tmp_path / "ink.safetensors", {"a.lora_up.weight": (4, 4)})
    path = tmp_path / "models.yaml"
    loras = "loras: { ink: { path: ink.safetensors } }"
    path.write_text(
        f"default: one\nmodels:\n  one: {{ checkpoint: one.safetensors, vae: vae.safetensors, {loras} }}\n"
        "  two: { checkpoint: two.safetensors, vae: vae.safetensors }\n"
    )
    return path


def manifest(tmp_path: Path, name: str) -> Path:
    return tmp_path / f"{name}.safetensors.darkroom-seal.json"


def test_single_files_have_seals_beside_them(single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seals were for folders alone."""
    assert models(single, "seal", "one") == 0
    for name in ("one", "vae", "ink"):
        assert manifest(tmp_path, name).stat().st_mode & 0o777 == 0o644
    assert "one: sealed 1 files" in capsys.readouterr().out
    assert models(single, "verify", "one") == 0
    said = capsys.readouterr().out
    assert "one: 3 files" in said
    assert said.count("SHA-256 of the seal: ") == 3
    assert models(single, "verify", "two") == 1
    assert f"not sealed: {tmp_path / 'two.safetensors'}\n" in capsys.readouterr().out
    before = manifest(tmp_path, "vae").stat().st_mtime_ns
    assert models(single, "seal", "two") == 0
    assert "sealed already: 1 files" in capsys.readouterr().out
    assert manifest(tmp_path, "vae").stat().st_mtime_ns == before, "what others share is not read again"
    assert models(single, "verify", "two") == 0


@pytest.mark.parametrize("how", ["shorter", "header"])
def test_a_single_file_that_has_changed_is_refused_by_name(
    how: str, single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models(single, "seal", "one")
    models(single, "seal", "two")
    vae = tmp_path / "vae.safetensors"
    shape = (512, 4, 2, 2) if how == "shorter" else (512, 4, 9, 1)
    write(vae, {"decoder.conv_in.weight": shape})
    for model in load_catalog(single):
        assert str(model.problem()).startswith("vae.safetensors has ")
    assert run("check", "--models", str(single)) == 1
    assert "when it was sealed" in capsys.readouterr().err
    assert models(single, "seal", "two") == 1
    assert f"{vae} is sealed, and vae.safetensors has" in capsys.readouterr().err
    assert models(single, "verify", "two") == 1
    assert "differs: vae.safetensors" in capsys.readouterr().out
    assert models(single, "seal", "two", "--again") == 0
    assert models(single, "verify", "two") == 0


def test_an_adapter_that_has_changed_leaves_its_model_serving(single: Path, tmp_path: Path) -> None:
    models(single, "seal", "one")
    write(tmp_path / "ink.safetensors", {"a.lora_up.weight": (5, 4)})
    [one, _] = load_catalog(single)
    assert one.problem() is None
    assert "ink.safetensors has" in one.lora_problems()["ink"]


def test_an_embedding_that_has_changed_is_refused_by_name(single: Path, tmp_path: Path) -> None:
    """It is a part of what its model draws: every prompt that says its word would draw something else."""
    toy = write(tmp_path / "toy.safetensors", {"x": (2, 768)})
    single.write_text(single.read_text().replace("  one: { ", "  one: { embeddings: { <toy>: toy.safetensors }, "))
    assert models(single, "seal", "one") == 0
    assert manifest(tmp_path, "toy").is_file()
    [one, two] = load_catalog(single)
    assert one.problem() is None
    write(toy, {"x": (3, 768)})
    [one, two] = load_catalog(single)
    assert str(one.problem()).startswith("toy.safetensors has ")
    assert two.problem() is None


def test_bytes_that_no_header_tells_are_verified(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By verify, and by a deep check; /v1/models shows what they found, of all of a model's files."""
    models(single, "seal", "one")
    states = SealStates(tmp_path / "data")
    [one, two] = (model.plan for model in load_catalog(single))
    assert states.of(two) == {"state": "unknown", "verified_at": None}, "half of it is sealed"
    assert states.of(one)["state"] == "intact"  # type: ignore[index]
    read: list[Path] = []
    real = seal.read

    def reading(folder: Path, name: str) -> seal.Seal | None:
        read.append(folder / name)
        return real(folder, name)

    monkeypatch.setattr(seal, "read", reading)
    assert states.of(one)["state"] == "intact"  # type: ignore[index]
    assert read == [], "a seal is read again once it has changed"
    monkeypatch.undo()
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path / "data"))
    flip(tmp_path / "one.safetensors", -1)
    assert next(iter(load_catalog(single))).problem() is None, "the front looks at headers alone"
    assert models(single, "verify", "one") == 1
    assert states.of(one)["state"] == "damaged"  # type: ignore[index]
    flip(tmp_path / "one.safetensors", -1)
    assert models(single, "verify", "one") == 0
    assert states.of(one)["state"] == "intact"  # type: ignore[index]
    manifest(tmp_path, "one").write_text("{")
    assert states.of(one) == {"state": "damaged", "verified_at": None}
    assert "is damaged: seal the model again" in str(next(iter(load_catalog(single))).problem())


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A models.yaml with a folder that is one model's path and another's config."""
    shutil.copytree(ROOT / "weights" / "darkroom-mini", tmp_path / "model")
    write(tmp_path / "x.safetensors", sd())
    path = tmp_path / "models.yaml"
    path.write_text("default: a\nmodels:\n  a: { path: model }\n  b: { checkpoint: x.safetensors, config: model }\n")
    return path


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_folder_that_two_models_read_has_one_seal_for_both(order: str, shared: Path, tmp_path: Path) -> None:
    """Whose config it was named the configurations alone: the second of the two was not sealed, as if files had
    changed, or the first was refused once it was."""
    for name in order:
        assert models(shared, "seal", name) == 0
        assert [model.problem() for model in load_catalog(shared)] == [None, None]
    sealed = seal.read(tmp_path / "model")
    assert sealed is not None
    assert WEIGHTS in sealed.files
    assert models(shared, "verify", "a") == models(shared, "verify", "b") == 0
    assert models(shared, "seal", "b", "--again") == 0
    assert [model.problem() for model in load_catalog(shared)] == [None, None]


def test_a_folder_without_some_weights_keeps_the_seal_of_the_others(shared: Path, tmp_path: Path) -> None:
    """What one model reads of it went out of the seal as another was sealed that reads less."""
    shutil.move(tmp_path / "model" / "vae" / WEIGHTS.partition("/")[2], tmp_path / "vae.safetensors")
    write(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": (512, 4, 3, 3)})
    shared.write_text(shared.read_text().replace("path: model", "path: model, vae: vae.safetensors"))
    for name in "aba":
        assert models(shared, "seal", name) == 0
        assert [model.problem() for model in load_catalog(shared)] == [None, None]
    assert models(shared, "seal", "b", "--again") == 0
    (tmp_path / "model" / seal.NAME).write_text("{")
    assert models(shared, "seal", "b", "--again") == 0, "a seal that is damaged does not keep another from its place"


def test_a_seal_of_configurations_alone_goes_on_to_do(shared: Path, tmp_path: Path) -> None:
    """Earlier versions made such ones of a config folder that has weights too."""
    models(shared, "seal", "b")
    folder = tmp_path / "model"
    sealed = seal.read(folder)
    assert sealed is not None
    names = [name for name in sealed.files if not name.endswith(".safetensors")]
    (folder / seal.NAME).write_bytes(seal.make(folder, names, lambda read: None))
    assert load_catalog(shared).models["b"].problem() is None
    assert models(shared, "verify", "b") == 0
    assert models(shared, "seal", "b") == 0
    assert load_catalog(shared).models["a"].problem() is None


def test_a_controlnet_is_sealed_with_its_model_and_is_verified(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that came later does not unseal its model."""
    models(file, "seal", "a")
    folder = write_control(tmp_path / "canny")
    file.write_text("default: a\nmodels:\n  a: { path: model, controlnets: { canny: canny } }\n")
    assert models(file, "verify", "a") == 0
    assert models(file, "seal", "a") == 0
    assert str(folder / "darkroom-seal.json") in capsys.readouterr().out
    assert models(file, "verify", "a") == 0
    flip(folder / "diffusion_pytorch_model.safetensors", -1)
    assert models(file, "verify", "a") == 1
    assert "differs: diffusion_pytorch_model.safetensors" in capsys.readouterr().out


def test_an_upscaler_that_cannot_be_used_is_no_bar_to_the_seal(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder was sealed, and then the command failed over a file that the model serves without."""
    nets = "  b: { like: a, upscaler: good.safetensors }\n  c: { like: a, upscaler: gone.safetensors }\n"
    file.write_text(f"default: a\nmodels:\n  a: {{ path: model, upscaler: torn.safetensors }}\n{nets}")
    good = upscalers.write(tmp_path / "good.safetensors", upscalers.compact())
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    assert models(file, "seal", "a") == 0
    said = capsys.readouterr().err
    assert f"not sealed: {tmp_path / 'gone.safetensors'}: gone.safetensors does not exist" in said
    assert f"not sealed: {tmp_path / 'torn.safetensors'}: " in said
    assert manifest(tmp_path, "good").is_file()
    assert models(file, "verify", "a") == 0
    assert "models.b.upscaler" not in load_catalog(file).upscaler_problems()
    upscalers.write(good, upscalers.compact(width=9))
    assert "good.safetensors has" in load_catalog(file).upscaler_problems()["models.b.upscaler"]
    assert models(file, "seal", "a", "--again") == 0
    assert "models.b.upscaler" not in load_catalog(file).upscaler_problems()
