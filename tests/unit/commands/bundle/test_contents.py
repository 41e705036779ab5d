"""The models that travel in a bundle: sealed ones, with a models.yaml that finds them there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from pipelines.facts import folder as model_folder
from pipelines.facts import seal
from server.catalog.load import load_catalog
from server.commands.bundle import contents
from server.commands.failure import CommandFailed
from tests import upscalers
from tests.running import ROOT
from tests.unit.catalog.control_folders import WEIGHTS as WEIGHTS_OF_ONE
from tests.unit.catalog.control_folders import write_control
from tests.unit.catalog.test_single_files import flux
from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_checkpoint import sd, write
from tests.unit.pipelines.facts.test_folder import weights
from tests.unit.pipelines.facts.test_seal import WEIGHTS, flip

TEXT = """
providers: [openai]
default: b
models:
  a: { path: FOLDER, aliases: [x], loras: { ink: { path: inks/ink.safetensors, weight: 0.5 } } }
  b: { like: a, max_steps: 9, lora_folder: more }
  c: { path: nowhere }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A models.yaml with a sealed model, whose folder is named by an absolute path, and one that is missing."""
    folder = tmp_path / "deep" / "model"
    shutil.copytree(ROOT / "weights" / "darkroom-mini", folder)
    (folder / "README.md").write_text("not read by loading")
    (folder / seal.NAME).write_bytes(seal.make(folder, model_folder.files_read(folder), lambda read: None))
    for name in ("inks/ink.safetensors", "more/one.safetensors", "more/two.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(weights())
    (tmp_path / "more" / "._one.safetensors").write_bytes(b"left by a system")
    path = tmp_path / "models.yaml"
    path.write_text(TEXT.replace("FOLDER", str(folder)))
    return path


def unpacked(found: contents.Contents, text: str, folder: Path) -> Path:
    """The models.yaml of a bundle, beside its files."""
    for name, path in found.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    (folder / "models.yaml").write_text(text)
    return folder / "models.yaml"


def test_what_travels_is_found_where_it_arrives(file: Path, tmp_path: Path) -> None:
    found, text = contents.of_models(load_catalog(file), ["openai/b"])
    there = load_catalog(unpacked(found, text, tmp_path / "there"))
    assert list(there.models) == ["a", "b"]
    assert there.default == "b"
    assert there.resolve("openai/x").id == "a"
    assert all(model.problem() is None and model.lora_problems() == {} for model in there)
    assert sorted(there.models["b"].entry.loras) == ["ink", "one", "two"]
    assert there.models["b"].entry.max_steps == 9
    assert there.models["a"].entry.loras["ink"].weight == 0.5
    folder = tmp_path / "there" / "models" / "a"
    sealed = seal.read(folder)
    assert sealed is not None
    read = model_folder.files_read(folder)
    assert {state for _, state in seal.verify(folder, sealed, read, lambda _: None)} == {seal.State.SAME}
    assert not (folder / "README.md").exists()
    assert str(tmp_path) not in text
    assert set(found.known) == {f"models/a/{name}" for name in sealed.files}


def test_a_default_that_stays_behind_is_replaced(file: Path, tmp_path: Path) -> None:
    found, text = contents.of_models(load_catalog(file), ["a"])
    assert yaml.safe_load(text)["default"] == "a"
    assert load_catalog(unpacked(found, text, tmp_path / "there")).default == "a"


def test_what_is_not_sealed_or_not_what_was_sealed_is_not_packed(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    with pytest.raises(CommandFailed, match="c is not packed: the folder does not exist"):
        contents.of_models(load_catalog(file), ["a", "c"])
    flip(folder / "scheduler" / "scheduler_config.json", -2)
    with pytest.raises(CommandFailed, match="scheduler/scheduler_config"):
        contents.of_models(load_catalog(file), ["a"])
    flip(folder / "scheduler" / "scheduler_config.json", -2)
    (folder / seal.NAME).unlink()
    with pytest.raises(CommandFailed, match="a is not sealed: run `darkroom models seal a` first"):
        contents.of_models(load_catalog(file), ["a"])


def test_an_adapter_that_is_broken_is_not_packed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "inks" / "ink.safetensors").write_bytes(b"torn")
    with pytest.raises(CommandFailed, match=r"not packed: .*ink\.safetensors"):
        contents.of_models(load_catalog(file), ["a"])


def test_the_words_of_a_model_travel_with_it(file: Path, tmp_path: Path) -> None:
    """A file outside of the sealed folder stayed behind: where the bundle arrived, the model was not served."""
    toy = write(tmp_path / "toy.safetensors", {"x": (2, 64)})
    text = file.read_text().replace("aliases: [x]", "aliases: [x], embeddings: { <toy>: toy.safetensors }")
    file.write_text(text)
    found, text = contents.of_models(load_catalog(file), ["b"])
    there = load_catalog(unpacked(found, text, tmp_path / "there"))
    (word,) = there.models["b"].plan.embeddings
    assert word.token == "<toy>"
    assert Path(word.path).read_bytes() == toy.read_bytes()
    assert Path(word.path).is_relative_to(tmp_path / "there")
    assert there.models["a"].problem() is None
    toy.write_bytes(b"torn")
    with pytest.raises(CommandFailed, match="a is not packed: embeddings: <toy>: "):
        contents.of_models(load_catalog(file), ["b"])


def test_names_in_a_bundle_are_plain_files(file: Path) -> None:
    from server.commands.bundle.install import refuse_name

    found, _ = contents.of_models(load_catalog(file), ["b"])
    assert f"models/a/{WEIGHTS}" in found.files
    for name in found.files:
        refuse_name(name)


FILES = """
default: xl
checkpoints: files
models:
  flux:
    transformer: parts/flux.safetensors
    text_encoders: [parts/l.safetensors, parts/t5/model.safetensors]
    vae: parts/vae/model.safetensors
    tokenizer: parts/t5
  other: { like: flux }
  mini: { path: FOLDER }
"""


@pytest.fixture
def single(file: Path, tmp_path: Path) -> Path:
    """A models.yaml with a model of single files, and one in the folder of checkpoints; all of it is sealed."""
    parts = tmp_path / "parts"
    (parts / "t5").mkdir(parents=True)
    (parts / "vae").mkdir()
    (tmp_path / "files").mkdir()
    write(parts / "flux.safetensors", flux())
    write(parts / "l.safetensors", {"text_model.embeddings.token_embedding.weight": (4, 768)})
    block = "encoder.block.0.layer.0.SelfAttention.q.weight"
    write(parts / "t5" / "model.safetensors", {"shared.weight": (4, 4096), block: (4, 4)})
    write(parts / "vae" / "model.safetensors", {"decoder.conv_in.weight": (4, 4, 3, 3)})
    (parts / "t5" / "tokenizer.json").write_text("{}")
    write(tmp_path / "files" / "xl.safetensors", sd())
    file.write_text(FILES.replace("FOLDER", str(tmp_path / "deep" / "model")))
    for name in ("flux", "xl"):
        assert run("models", "--models", str(file), "seal", name) == 0
    return file


def test_single_files_travel_as_folders_do(single: Path, tmp_path: Path) -> None:
    """They were refused: only folders had seals."""
    found, text = contents.of_models(load_catalog(single), ["other", "xl"])
    assert str(tmp_path) not in text
    there = load_catalog(unpacked(found, text, tmp_path / "there"))
    assert sorted(there.models) == ["flux", "other", "xl"]
    assert there.default == "xl"
    for model in there:
        assert model.problem() is None
    plan = there.resolve("other").plan
    assert {Path(each).name for each in plan.text_encoders} == {"l.safetensors", "model.safetensors"}
    assert all(str(tmp_path / "there") in each for each in plan.single_files)
    assert len(found.known) == 6
    write(Path(plan.text_encoders[0]), {"text_model.embeddings.token_embedding.weight": (5, 768)})
    assert "l.safetensors has " in str(there.resolve("flux").problem())


def test_a_single_file_without_a_seal_is_not_packed(single: Path, tmp_path: Path) -> None:
    (tmp_path / "parts" / "l.safetensors.darkroom-seal.json").unlink()
    with pytest.raises(
        CommandFailed, match=r"flux: .*l\.safetensors is not sealed: run `darkroom models seal flux` first"
    ):
        contents.of_models(load_catalog(single), ["flux"])


def test_controlnets_travel_with_their_seals(file: Path, tmp_path: Path) -> None:
    for name in ("canny", "depth"):
        write_control(tmp_path / "nets" / name)
    sealed = tmp_path / "nets" / "canny"
    (sealed / seal.NAME).write_bytes(seal.make(sealed, ["config.json", WEIGHTS_OF_ONE], lambda read: None))
    nets = "controlnets: { canny: nets/canny, depth: nets/depth }, aliases: [x]"
    file.write_text(file.read_text().replace("aliases: [x]", nets))
    found, text = contents.of_models(load_catalog(file), ["b"])
    there = load_catalog(unpacked(found, text, tmp_path / "there"))
    assert all(model.problem() is None for model in there)
    assert there.models["b"].control_names == ("canny", "depth")
    folders = [Path(each.path) for each in there.models["a"].plan.controls]
    assert all(folder.is_relative_to(tmp_path / "there") for folder in folders)
    assert [(folder / seal.NAME).is_file() for folder in folders] == [True, False]


def test_upscalers_travel_and_are_found_where_they_arrive(file: Path, tmp_path: Path) -> None:
    """models.yaml named them where they had been: where the bundle arrived, pictures were enlarged by Lanczos."""
    (tmp_path / "nets").mkdir()
    for scale in (2, 4):
        upscalers.write(tmp_path / "nets" / f"x{scale}.safetensors", upscalers.compact(scale))
    plain = tmp_path / "nets" / "x4.safetensors"
    manifest = plain.with_name(seal.name_for(plain.name))
    manifest.write_bytes(seal.make(plain.parent, [plain.name], lambda read: None))
    text = f"upscalers: {{ two: {tmp_path / 'nets' / 'x2.safetensors'} }}{file.read_text()}"
    text = text.replace("max_steps: 9", "max_steps: 9, upscaler: nets/x4.safetensors")
    file.write_text(text.replace("aliases: [x]", "aliases: [x], upscaler: two"))
    found, text = contents.of_models(load_catalog(file), ["b"])
    assert str(tmp_path) not in text
    there = load_catalog(unpacked(found, text, tmp_path / "there"))
    assert there.upscaler_problems() == {}
    assert [each.name for each in there.models["a"].plan.upscalers] == ["two", "x4"]
    packed = Path(there.models["a"].plan.upscalers[1].path)
    assert packed.with_name(manifest.name).read_bytes() == manifest.read_bytes()
    plain.write_bytes(b"torn")
    with pytest.raises(CommandFailed, match=r"not packed: .*x4\.safetensors"):
        contents.of_models(load_catalog(file), ["b"])
